"""What a replica counts of itself, with the clock in the test's hand."""

from __future__ import annotations

import pytest

from serve_app.deployments.replica_metrics import ReplicaMetrics
from serve_app.engines.loading import LoadState, Phase
from serve_app.metrics import PlainSink
from tests.tokens import HandClock


class Replica:
    def __init__(self, gpu_share: float = 0.75) -> None:
        self.clock, self.sink = HandClock(), PlainSink()
        self.metrics = ReplicaMetrics("flux", self.sink, gpu_share, self.clock)

    def see(self, phase: Phase) -> None:
        self.metrics.record_load(LoadState(phase, None, 12.0))

    def hold(self, seconds: float) -> float | None:
        self.clock.time += seconds
        self.metrics.count_held()
        return self.sink.value("pawfect_gpu_held_seconds_total", engine="flux")

    @property
    def loads(self) -> tuple[float | None, ...]:
        name = "pawfect_engine_loads_total"
        return tuple(self.sink.value(name, engine="flux", outcome=outcome) for outcome in ("loaded", "failed"))


def test_the_share_of_a_gpu_is_counted_by_the_clock() -> None:
    replica = Replica(0.75)
    assert [replica.hold(seconds) for seconds in (4.0, 0.0, 8.0)] == [3.0, 3.0, 9.0]


def test_without_a_gpu_the_series_is_there_at_zero() -> None:
    replica = Replica(0.0)
    assert replica.sink.value("pawfect_gpu_held_seconds_total", engine="flux") == 0.0
    assert replica.hold(100.0) == 0.0


@pytest.mark.parametrize(("phase", "loads"), [(Phase.READY, (1, 0)), (Phase.FAILED, (0, 1)), (Phase.LOADING, (0, 0))])
def test_the_end_of_a_load_is_counted_once(phase: Phase, loads: tuple[float, float]) -> None:
    replica = Replica()
    assert replica.loads == (0, 0)
    for seen in (Phase.LOADING, phase, phase):
        replica.see(seen)
    assert replica.loads == loads
    assert replica.sink.value("pawfect_engine_ready", engine="flux") == (phase is Phase.READY)
    assert replica.sink.value("pawfect_engine_load_seconds", engine="flux") == (12.0 if phase is Phase.READY else None)


def test_a_load_that_was_given_up_is_none() -> None:
    replica = Replica()
    replica.metrics.give_up_load()
    replica.see(Phase.FAILED)
    assert replica.loads == (0, 0)


def test_nothing_has_run_out_of_memory_yet() -> None:
    assert Replica().sink.value("pawfect_out_of_memory_total", engine="flux") == 0
