"""Time, injected, so that tests decide what time it is."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds of the Unix clock; for what is stored and compared across processes."""

    def monotonic(self) -> float:
        """Seconds that never jump; for measuring and for time-outs inside one process."""


class SystemClock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()
