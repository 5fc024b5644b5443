"""How long the rest of a request will take, from how long such work took before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from serve_app.flux.stepping import Sample, Tick, Work

NEWEST_SHARE = 0.2
"""Weight of the newest measurement; the average then looks back over some ten ticks."""

_Key = tuple[Work, int]


class Estimates:
    """Seconds per kind of work and number of image tokens, as moving averages. For one thread."""

    def __init__(self) -> None:
        self._seconds: dict[_Key, float] = {}

    def record(self, tick: Tick, seconds: float) -> None:
        key = (tick.work, sum(_tokens(tick.work, sample) for sample in tick.samples))
        known = self._seconds.get(key)
        self._seconds[key] = seconds if known is None else known + NEWEST_SHARE * (seconds - known)

    def remaining(self, samples: Iterable[Sample]) -> float | None:
        """Seconds of work that is left of these samples if each goes alone; None while too little was measured."""
        total = 0.0
        for sample in samples:
            steps = sample.spec.steps_to_run - sample.done
            for work, count in ((Work.ENCODE, sample.work is Work.ENCODE), (Work.STEP, steps), (Work.DECODE, 1)):
                seconds = self._estimate(work, _tokens(work, sample)) if count else 0.0
                if seconds is None:
                    if work is Work.STEP:
                        return None
                    seconds = 0.0  # one call of the VAE, less than a step
                total += count * seconds
        return total

    def until_done(self, order: Sequence[Sequence[Sample]]) -> list[float | None]:
        """Per request, in the order in which they are worked on: seconds until it and all before it are done."""
        times: list[float | None] = []
        total: float | None = 0.0
        for samples in order:
            own = self.remaining(samples)
            total = None if total is None or own is None else total + own
            times.append(total)
        return times

    def _estimate(self, work: Work, tokens: int) -> float | None:
        """Measured for this size, else scaled from the nearest one that was."""
        known = {size: seconds for (kind, size), seconds in self._seconds.items() if kind is work}
        if not known:
            return None
        nearest = min(known, key=lambda size: abs(size - tokens))
        return known[nearest] * tokens / nearest


def _tokens(work: Work, sample: Sample) -> int:
    """True guidance doubles a step; what the VAE does, it does once."""
    return sample.tokens if work is Work.STEP else sample.image_tokens
