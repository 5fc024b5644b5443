"""Time, injected, so that tests decide what time it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds of the Unix clock; for what is stored and compared across processes."""

    def monotonic(self) -> float:
        """Seconds that never jump; for measuring and for time-outs inside one process."""


@dataclass(frozen=True, slots=True)
class Lap:
    """A piece of work of a stage that has ended, in seconds of the Unix clock; `error` is the class of what it raised,
    None if it ended well."""

    stage: str
    start: float
    end: float
    error: type[BaseException] | None = None


class Laps:
    """What a piece of work was busy with, and when; whoever began it keeps this, also when the work fails."""

    def __init__(self) -> None:
        self._laps: list[Lap] = []

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """The same stage may be timed more than once."""
        start, moment, error = time.time(), time.perf_counter(), None
        try:
            yield
        except BaseException as raised:
            error = type(raised)
            raise
        finally:
            # The length by a clock that never jumps.
            self._laps.append(Lap(stage, start, start + time.perf_counter() - moment, error))

    def __iter__(self) -> Iterator[Lap]:
        return iter(tuple(self._laps))

    @property
    def seconds(self) -> dict[str, float]:
        """Per stage, in the order in which they were first met."""
        total: dict[str, float] = {}
        for lap in self:
            total[lap.stage] = total.get(lap.stage, 0.0) + lap.end - lap.start
        return total


class SystemClock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()
