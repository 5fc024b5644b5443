"""Models that did not load, as an Editor sees them: a replica that fails at once is replaced before it is scraped."""

from __future__ import annotations

from collections.abc import Iterable

from serve_app import metrics
from serve_app.clock import Clock
from serve_app.metrics import Sink

HOLD_S = 120.0
"""How long a failure is shown: its replica is replaced after three health checks, 15 s, and scraped every 30 s."""


class LoadFailures:
    def __init__(self, clock: Clock, sink: Sink) -> None:
        self._clock = clock
        self._sink = sink
        self._seen_at: dict[str, float] = {}

    def note(self, engine: str) -> None:
        """A replica of the engine has just said that its model did not load."""
        self._seen_at[engine] = self._clock.monotonic()

    def show(self, engines: Iterable[str]) -> None:
        now = self._clock.monotonic()
        for engine in engines:
            is_recent = now - self._seen_at.get(engine, float("-inf")) < HOLD_S
            self._sink.record(metrics.ENGINE_LOAD_FAILED, float(is_recent), engine=engine)
