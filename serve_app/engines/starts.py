"""Whether jobs met a ready engine, from what one process saw of the engines while it looked at them again and again."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from serve_app.clock import Clock
from serve_app.engines.loading import LoadState, Phase


class Start(StrEnum):
    """What a job met: an engine that was ready all the time, one that was not, or nobody knows."""

    WARM = "warm"
    COLD = "cold"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class _Seen:
    since: float
    is_ready: bool
    cold_until: float = float("-inf")


class Starts:
    """Times are seconds of the Unix clock. Between two looks nothing is known: an engine counts as not ready until the
    look that first finds it ready again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._engines: dict[str, _Seen] = {}

    def note(self, engine: str, state: LoadState | None) -> None:
        """An engine was just looked at; None stands for one scaled to zero."""
        now = self._clock.now()
        is_ready = state is not None and state.phase is Phase.READY
        seen = self._engines.setdefault(engine, _Seen(now, is_ready))
        if not (is_ready and seen.is_ready):
            seen.cold_until = now
        seen.is_ready = is_ready

    def find(self, engine: str, since: float) -> Start:
        """What a job met that came at `since` and has just ended."""
        seen = self._engines.get(engine)
        if seen is None:
            return Start.UNKNOWN
        if not seen.is_ready or since <= seen.cold_until:
            return Start.COLD
        return Start.UNKNOWN if since < seen.since else Start.WARM
