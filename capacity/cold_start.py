"""From no L4 to the first photo done, beside the time that a push waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from capacity.photos import TFLOP, Span, find_seconds

WEIGHTS_GB = 12.0 + 0.17
"""The transformer in float8, and the VAE; README.md."""
FUSE_GB_S = Span(1.0, 0.196)
"""GB/s over GCS FUSE, best and worst: what its parallel downloads reach on a fast disk (assumed), and what a boot disk
of 200 GiB takes, through which its cache goes (pd-balanced: 140 MB/s, and 0.28 more for each GiB)."""
PUSH_S = 570.0
"""A push waits for so long, then it is answered 503 and comes again."""
SPOT_FALLBACK_S = 600.0
"""Without a Spot L4 the next group is tried after so long (rayservice.yaml)."""


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    seconds: Span
    source: str


def list_steps() -> list[Step]:
    photo = find_seconds(TFLOP["high"][0])
    return [
        Step("the policy sees the job", Span(3, 8), "measured, `make bench-scaling`"),
        Step("Ray asks for a pod, GKE for a node", Span(10, 40), "assumed"),
        Step("node: machine, system, driver of the GPU", Span(90, 240), "assumed; Spot as on demand"),
        Step("image by streaming, the FUSE sidecar", Span(15, 40), "Google: 20 s for an image that pulls in 230 s"),
        Step("Ray's worker, the replica, imports of torch", Span(20, 60), "15 to 25 s measured on two cores"),
        Step("weights over GCS FUSE, 12 GB", read_weights(), "see `capacity/cold_start.py`"),
        Step("to the GPU, first step (no compilation)", Span(5, 30), "assumed"),
        Step("the photo itself, high", photo, "see [Costs](#costs)"),
    ]


def read_weights() -> Span:
    return Span(WEIGHTS_GB / FUSE_GB_S.low, WEIGHTS_GB / FUSE_GB_S.high)


def add_up(steps: Sequence[Step]) -> Span:
    return Span(sum(step.seconds.low for step in steps), sum(step.seconds.high for step in steps))
