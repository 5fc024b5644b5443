"""How long an Editor shows that a model did not load."""

from __future__ import annotations

from serve_app.deployments.load_failures import HOLD_S, LoadFailures
from serve_app.metrics import PlainSink
from tests.tokens import HandClock


def test_a_failure_is_shown_for_longer_than_its_replica_lives() -> None:
    clock, sink = HandClock(), PlainSink()
    failures = LoadFailures(clock, sink)

    def show(engine: str) -> float | None:
        failures.show(("flux", "draft"))
        return sink.value("pawfect_engine_load_failed", engine=engine)

    assert (show("flux"), show("draft")) == (0, 0)
    failures.note("flux")
    clock.time += HOLD_S - 1
    assert (show("flux"), show("draft")) == (1, 0)
    clock.time += 1
    assert show("flux") == 0
