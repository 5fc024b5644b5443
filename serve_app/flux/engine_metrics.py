"""What a FLUX engine measures of itself."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app import metrics
from serve_app.flux.held import Held
from serve_app.flux.stepping import Tick, Work
from serve_app.metrics import Sink


class EngineMetrics:
    def __init__(self, sink: Sink, engine: str) -> None:
        self._sink = sink
        self._engine = engine

    def record_tick(self, tick: Tick, seconds: float) -> None:
        self._sink.record(metrics.ENGINE_TICK_SECONDS, seconds, engine=self._engine, work=str(tick.work))
        if tick.work is Work.STEP:
            rows = sum(sample.spec.rows for sample in tick.samples)
            self._sink.record(metrics.ENGINE_BATCH_ROWS, rows, engine=self._engine)

    def record_requests(self, everybody: Sequence[Held]) -> None:
        """The requests that are held now."""
        waiting = sum(not held.has_begun for held in everybody)
        self._sink.record(metrics.ENGINE_REQUESTS, waiting, engine=self._engine, state="waiting")
        self._sink.record(metrics.ENGINE_REQUESTS, len(everybody) - waiting, engine=self._engine, state="running")

    def record_failure(self, code: str) -> None:
        self._sink.record(metrics.ENGINE_FAILURES, engine=self._engine, kind=code)
