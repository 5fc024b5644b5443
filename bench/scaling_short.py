"""`scaling` in a minute, for the tests: a burst wakes replicas, three are pinned, and consumption is paused under load.

The figures are those of `scaling` and `scaling_by_hand`; going back to zero takes minutes and is not waited for.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from pathlib import Path

from bench import scaling_by_hand
from bench.fake_l4s import FITTING, FLUX, hasten, open_fake_l4s
from bench.offered_load import Phase
from bench.report import report
from bench.sampling import Sampler
from bench.scaling_by_hand import Hand, judge_ends
from bench.scaling_judgement import judge_replicas

BURST = Phase("burst", 5, 2)
PAUSED = Phase("load", 12, 1)
WISH = {"quality": "high", "steps": 12}
"""A second of one core."""
HOLD_S = 4.0
PATIENCE_S = 120.0
AT_LEAST = {"replicas_start": 0, "replicas_top": 2, **scaling_by_hand.AT_LEAST}
AT_MOST = {"replicas_start": 0, "replicas_top": FITTING, "gpu_share_max": 1, "failed_requests": 0} | {
    name: bound for name, bound in scaling_by_hand.AT_MOST.items() if not name.startswith("floor")
}


async def run(folder: Path) -> dict[str, float]:
    async with open_fake_l4s(folder, hasten, WISH) as l4s, Sampler(l4s.cluster, l4s.store, FLUX) as sampler:
        await sampler.wait_for(lambda sample: sample.at > 0, PATIENCE_S)
        start = float(sampler.samples[0].running)
        await l4s.load.follow([BURST])
        await sampler.wait_for(lambda sample: sample.running >= 2, PATIENCE_S)
        hand = Hand(l4s, sampler, HOLD_S)
        figures = {"replicas_start": start, **await hand.pin(), **await hand.pause([PAUSED])}
        replicas = judge_replicas(sampler.samples, sampler.placements, FITTING)
        return {
            **figures,
            **{name: replicas[name] for name in ("replicas_top", "gpu_share_max")},
            "failed_requests": float(l4s.load.answers.failed),
            **judge_ends(l4s, l4s.load.asked),
        }


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it, too, ends what was started
    with tempfile.TemporaryDirectory(prefix="pawfect-scaling-") as folder:
        figures = asyncio.run(run(Path(folder)))
    sys.exit(report(figures, at_least=AT_LEAST, at_most=AT_MOST))


if __name__ == "__main__":
    main()
