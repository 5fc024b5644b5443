"""Seconds and dollars of a photo on an L4: arithmetic, never measured on one.

seconds = TFLOP of the photo ÷ (dense bfloat16 peak × utilisation). The float8 of this service saves memory and computes
in bfloat16, so that is the peak that counts. Published times give utilisations of 33 % (H100, 6.43 s) to 66 % (L20,
26.4 s for 28 steps at 1024², 2,100 TFLOP); an L4 is held to 72 W, so 30 to 60 % are taken here.
"""

from __future__ import annotations

from dataclasses import dataclass

from capacity.facts import L4_BF16, UTILISATION_HIGH, UTILISATION_LOW

TFLOP = {"low": (126, 191), "medium": (420, 714), "high": (953, 1859)}
"""By quality: of the median photo, and of a median long leash; `make bench-engine`, README.md."""


@dataclass(frozen=True, slots=True)
class Span:
    """From the best to the worst case."""

    low: float
    high: float

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2

    def times(self, factor: float) -> Span:
        return Span(self.low * factor, self.high * factor)


def find_seconds(tflop: float) -> Span:
    """Of an L4, alone on it."""
    return Span(tflop / (L4_BF16.value * UTILISATION_HIGH.value), tflop / (L4_BF16.value * UTILISATION_LOW.value))


def find_dollars(tflop: float, hour: float) -> Span:
    """While the L4 has nothing but work; `hour` is its price."""
    return find_seconds(tflop).times(hour / 3600)
