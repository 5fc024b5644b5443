"""What the samples of a run of scaling say, as figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bench.offered_load import COMPLETED, Asked
from bench.sampling import Placement, Sample

NAN = float("nan")


def judge_replicas(samples: Sequence[Sample], placements: Sequence[Placement], fitting: int) -> dict[str, float]:
    """`fitting` replicas have room; figures about the top are not numbers where it was not reached."""
    top = [each for each in placements if len(each.shares) == fitting]
    fills = [fill for each in placements for fill in each.fill_by_gpu().values()]
    return {
        "wanted_top": float(max(sample.wanted for sample in samples)),
        "replicas_top": float(max(sample.running for sample in samples)),
        "replicas_end": float(samples[-1].running),
        "gpu_share_max": max(fills, default=NAN),
        "gpu_difference_at_top": max((_find_difference(each) for each in top), default=NAN),
        "spread_at_top": find_spread(placements, _find_busy_top(samples, fitting), fitting),
    }


def find_spread(placements: Sequence[Placement], between: tuple[float, float], replicas: int) -> float:
    """The busiest replica's pictures over the average one's, of those made in a span of time."""
    within = [each for each in placements if between[0] <= each.at <= between[1]]
    if len(within) < 2:
        return NAN
    first, last = within[0].done, within[-1].done
    made = sorted((count - first.get(replica, 0.0) for replica, count in last.items()), reverse=True)[:replicas]
    total: float = sum(made)
    return max(made) * replicas / total if len(made) == replicas and total else NAN


def _find_busy_top(samples: Sequence[Sample], fitting: int) -> tuple[float, float]:
    """While all that fit ran, and had work."""
    times = [sample.at for sample in samples if sample.running >= fitting and sample.queue.running >= fitting]
    return (times[0], times[-1]) if times else (NAN, NAN)


def _find_difference(placement: Placement) -> float:
    """Replicas that one GPU has more than another. All GPUs are taken at the top, so all are seen."""
    counts = placement.count_by_gpu().values()
    return float(max(counts) - min(counts))


def find_first(samples: Sequence[Sample], wanted: Callable[[Sample], bool]) -> float:
    """When a sample was first as wanted; not a number when none was."""
    return next((sample.at for sample in samples if wanted(sample)), NAN)


def judge_jobs(asked: Sequence[Asked]) -> dict[str, float]:
    lost = sum(each.outcome != COMPLETED for each in asked)
    return {"messages": float(len(asked)), "lost": float(lost)}


def find_latency(asked: Sequence[Asked], between: tuple[float, float], percentile: float = 50) -> float:
    """Seconds from message to acknowledgement of those asked for in a span of time."""
    seconds = [each.latency_s for each in asked if between[0] <= each.asked_at < between[1] and each.latency_s]
    return find_percentile(seconds, percentile)


def find_percentile(values: Sequence[float], percentile: float) -> float:
    return float(np.percentile(values, percentile)) if values else NAN
