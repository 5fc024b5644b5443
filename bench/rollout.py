"""`make bench-rollout`: what may change under a running service, under load: the quality table, the code of every
deployment, the nodes there are. Exits with 1 when a bound does not hold; `rolling_updates` and `node_loss` say what the
figures are. The node needs Google's emulators, that is gcloud and Java, and is left out, and said so, without them.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
from pathlib import Path

from bench import node_loss, rolling_updates
from bench.report import report
from pawfect.emulators import find_missing

PARTS = {"updates": rolling_updates, "node": node_loss}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.rollout")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    names = list(parser.parse_args().parts)
    if "node" in names and (reason := find_missing()) is not None:
        print(f"the end of a node is left out: {reason}")
        names.remove("node")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it, too, ends what was started
    figures: dict[str, float] = {}
    bounds: dict[str, dict[str, float]] = {"at_least": {}, "at_most": {}}
    for name in names:
        with tempfile.TemporaryDirectory(prefix="pawfect-rollout-") as folder:
            figures |= asyncio.run(PARTS[name].run(Path(folder)))
        bounds["at_least"] |= PARTS[name].AT_LEAST
        bounds["at_most"] |= PARTS[name].AT_MOST
    sys.exit(report(figures, **bounds))


if __name__ == "__main__":
    main()
