"""What engines say of the time they spend on a request; `serve_app.tracing` makes spans of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

Attributes = Mapping[str, str | int | float | bool]


class Trace(Protocol):
    def record(
        self, name: str, traceparent: str | None, start: float, end: float, attributes: Attributes | None = None
    ) -> None:
        """A piece of work that has ended, `start` and `end` in seconds of the Unix clock, below the span that the W3C
        `traceparent` names. Without one, or where that trace is not kept, nothing happens. Never waits, never raises;
        may be called from any thread."""


class Untraced:
    """Keeps nothing."""

    def record(
        self, name: str, traceparent: str | None, start: float, end: float, attributes: Attributes | None = None
    ) -> None:
        pass
