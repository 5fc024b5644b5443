"""`make bench-scaling`: the service on two L4s that are not there, half a GPU to a replica, under a load that comes,
swells beyond what the GPUs can do, and goes; then scaled by hand (`scaling_by_hand`). Exits with 1 when a bound does
not hold.

- `wanted_top`, `replicas_top`, `replicas_end`: most replicas that the policy wanted, that ran, and those at the end;
  four fit;
- `gpu_share_max`: most of one GPU that was ever given away; `gpu_difference_at_top`: replicas that one GPU had more
  than the other while all that fit ran;
- `spread_at_top`: pictures of the busiest replica over those of the average one, while all that fit ran;
- `lost`: messages whose session did not complete; `repeated`: jobs that completed more than once; `failed_requests`:
  answers other than 204 and 503, and broken connections;
- `wake_s`: from the first message to the first replica that ran; `top_s`: from the burst to the last one that fits;
  `zero_s`: from the last job's end to no replica.

Latencies are multiples of `alone_s`, the median of the trickle's, whose replica is up and has nothing else to do.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import scaling_by_hand
from bench.fake_l4s import FITTING, FLUX, FakeL4s, hasten, open_fake_l4s
from bench.offered_load import Asked, Phase
from bench.report import report
from bench.sampling import Sampler
from bench.scaling_judgement import NAN, find_first, find_latency, judge_jobs, judge_replicas
from bench.scaling_plot import Mark, draw

PICTURES = Path(__file__).resolve().parent.parent / "docs"
CURVE = (
    Phase("nothing", 15, 0),
    Phase("trickle", 60, 0.1),
    Phase("burst", 30, 1.5),
    Phase("steady", 120, 0.15),
)
PATIENCE_S = 300.0
AFTERWARDS_S = 5.0
"""Seen in the plot after the last replica has gone."""
AT_LEAST = {"replicas_top": FITTING}
AT_MOST = {
    "replicas_top": FITTING,
    "replicas_end": 0,
    "gpu_share_max": 1,
    "gpu_difference_at_top": 1,
    "spread_at_top": 1.4,
    "lost": 0,
    "repeated": 0,
    "failed_requests": 0,
}


async def follow_curve(l4s: FakeL4s, curve: Sequence[Phase], plot: Path) -> dict[str, float]:
    async with Sampler(l4s.cluster, l4s.store, FLUX) as sampler:
        await sampler.wait_for(lambda sample: not sample.running, PATIENCE_S)
        marks = []
        for phase in curve:
            marks.append(Mark(time.time(), phase.name))
            await l4s.load.follow([phase])
        marks.append(Mark(time.time(), "nothing"))
        await l4s.load.settle(PATIENCE_S)
        zero_s = await sampler.wait_for(lambda sample: not (sample.running or sample.wanted), PATIENCE_S)
        await asyncio.sleep(AFTERWARDS_S)
    samples, asked = sampler.samples, l4s.load.asked
    draw(plot, samples, asked, marks, FITTING)
    spans = {mark.text: (mark.at, end.at) for mark, end in itertools.pairwise(marks)}
    return {
        **judge_jobs(asked),
        "repeated": float(l4s.store.count_repeated()),
        "failed_requests": float(l4s.load.answers.failed),
        "most_attempts": float(l4s.store.find_most_attempts()),
        **judge_replicas(samples, sampler.placements, FITTING),
        "wake_s": find_first(samples, lambda sample: sample.running > 0) - asked[0].asked_at,
        "top_s": find_first(samples, lambda sample: sample.running >= FITTING) - spans["burst"][0],
        "zero_s": zero_s,
        **judge_latency(asked, spans),
    }


def judge_latency(asked: Sequence[Asked], spans: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    alone_s = find_latency(asked[1:], spans["trickle"])
    return {
        "alone_s": alone_s,
        "first_over_alone": (asked[0].latency_s or NAN) / alone_s,
        "burst_p95_over_alone": find_latency(asked, spans["burst"], 95) / alone_s,
        "steady_p50_over_alone": find_latency(asked, spans["steady"]) / alone_s,
    }


async def run(folder: Path, pictures: Path) -> dict[str, float]:
    async with open_fake_l4s(folder, hasten) as l4s:
        result = await follow_curve(l4s, CURVE, pictures / "scaling.png")
        return {**result, **await scaling_by_hand.run(l4s, pictures / "scaling_by_hand.png")}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scaling")
    parser.add_argument("--pictures", type=Path, default=PICTURES, help="folder of the plots (default: docs)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it, too, ends what was started
    with tempfile.TemporaryDirectory(prefix="pawfect-scaling-") as folder:
        figures = asyncio.run(run(Path(folder), options.pictures))
    at_least, at_most = {**AT_LEAST, **scaling_by_hand.AT_LEAST}, {**AT_MOST, **scaling_by_hand.AT_MOST}
    sys.exit(report(figures, at_least=at_least, at_most=at_most))


if __name__ == "__main__":
    main()
