"""What a FLUX engine measures of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from serve_app import metrics
from serve_app.flux.held import Held
from serve_app.flux.memory import Memory
from serve_app.flux.stepping import Tick, Work
from serve_app.metrics import Sink

MEMORY_INTERVAL_S = 1.0
"""The memory is looked at no oftener; a small step may take milliseconds."""


class EngineMetrics:
    def __init__(self, sink: Sink, engine: str) -> None:
        self._sink = sink
        self._engine = engine
        self._memory_at = float("-inf")

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

    def record_memory(self, now: float, read: Callable[[], Memory | None]) -> None:
        """`read` the accelerator's memory, unless that was done less than a second ago; `now` never jumps."""
        if now - self._memory_at < MEMORY_INTERVAL_S:
            return
        self._memory_at = now
        if (memory := read()) is not None:
            for kind in ("allocated", "peak", "limit"):
                self._sink.record(metrics.GPU_MEMORY_BYTES, getattr(memory, kind), engine=self._engine, kind=kind)

    def record_out_of_memory(self) -> None:
        self._sink.record(metrics.OUT_OF_MEMORY, engine=self._engine)

    def record_failure(self, code: str) -> None:
        self._sink.record(metrics.ENGINE_FAILURES, engine=self._engine, kind=code)
