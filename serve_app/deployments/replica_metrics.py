"""What an engine's replica counts of itself, whatever its engine is."""

from __future__ import annotations

import ray

from serve_app import metrics
from serve_app.clock import Clock, SystemClock
from serve_app.engines.loading import LoadState, Phase
from serve_app.metrics import Sink

INTERVAL_S = 5.0
"""How often a replica counts: Ray exports every 10 s, and forgets a gauge that is not set again within 20 s."""


class ReplicaMetrics:
    """`gpu_share` is the part of a GPU that the replica holds, 0 on a CPU."""

    def __init__(self, engine: str, sink: Sink, gpu_share: float, clock: Clock | None = None) -> None:
        self._engine = engine
        self._sink = sink
        self._gpu_share = gpu_share
        self._clock = clock or SystemClock()
        self._counted_at = self._clock.monotonic()
        self._has_counted_load = False
        for outcome in metrics.LOAD_OUTCOMES:
            sink.declare(metrics.ENGINE_LOADS, engine=engine, outcome=outcome)
        for metric in (metrics.GPU_HELD_SECONDS, metrics.OUT_OF_MEMORY):
            sink.declare(metric, engine=engine)

    def record_load(self, state: LoadState) -> None:
        """Show how the load stands; its end is counted once, by the first call that sees it."""
        self._sink.record(metrics.ENGINE_READY, float(state.phase is Phase.READY), engine=self._engine)
        if state.phase is Phase.READY:
            self._sink.record(metrics.ENGINE_LOAD_SECONDS, state.seconds, engine=self._engine)
        if state.phase is not Phase.LOADING and not self._has_counted_load:
            self._has_counted_load = True
            outcome = "loaded" if state.phase is Phase.READY else "failed"
            self._sink.record(metrics.ENGINE_LOADS, engine=self._engine, outcome=outcome)

    def expect_load(self) -> None:
        """Another model is about to be loaded."""
        self._has_counted_load = False

    def give_up_load(self) -> None:
        """The replica stops: if the load has not ended by now, it is none that failed."""
        self._has_counted_load = True

    def count_held(self) -> None:
        """Count the time since the last call."""
        now = self._clock.monotonic()
        seconds, self._counted_at = now - self._counted_at, now
        self._sink.record(metrics.GPU_HELD_SECONDS, seconds * self._gpu_share, engine=self._engine)


def find_gpu_share() -> float:
    """The share of a GPU that Ray granted the replica this is called on."""
    resources: dict[str, float] = ray.get_runtime_context().get_assigned_resources()
    return resources.get("GPU", 0.0)
