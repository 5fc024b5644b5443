"""Warm, cold or unknown, from looks at the engines at times of the test's choice."""

from __future__ import annotations

import pytest

from serve_app.engines.loading import LoadState, Phase
from serve_app.engines.starts import Start, Starts
from tests.tokens import HandClock

READY, LOADING, FAILED = (LoadState(phase, None, 1.0) for phase in (Phase.READY, Phase.LOADING, Phase.FAILED))


class Watch:
    """Looks two seconds apart, the first at time 0."""

    def __init__(self, *states: LoadState | None) -> None:
        self.clock = HandClock()
        self.starts = Starts(self.clock)
        for number, state in enumerate(states):
            self.clock.time = number * 2.0
            self.starts.note("flux", state)

    def find(self, since: float, engine: str = "flux") -> Start:
        return self.starts.find(engine, since)


def test_an_engine_seen_ready_all_the_time_is_warm() -> None:
    assert Watch(READY, READY, READY).find(0.5) is Start.WARM


@pytest.mark.parametrize("state", [None, LOADING, FAILED])
def test_an_engine_seen_not_ready_meanwhile_is_cold(state: LoadState | None) -> None:
    watch = Watch(READY, READY, state, READY, READY)
    assert [watch.find(since) for since in (2.5, 4.0, 5.5)] == [Start.COLD] * 3
    assert watch.find(7.0) is Start.WARM


def test_a_job_that_woke_an_engine_and_ended_before_the_next_look_is_cold() -> None:
    assert Watch(READY, None).find(3.0) is Start.COLD


def test_it_was_not_ready_until_it_is_seen_ready() -> None:
    watch = Watch(None, READY)
    assert watch.find(1.9) is Start.COLD
    assert watch.find(2.1) is Start.WARM


def test_what_nobody_looked_at_is_unknown() -> None:
    watch = Watch(READY, READY)
    assert watch.find(0.5, "draft") is Start.UNKNOWN
    assert watch.find(-0.5) is Start.UNKNOWN, "it came before the first look"
    assert Watch(LOADING, READY).find(-0.5) is Start.COLD, "that much is known"


def test_engines_are_told_apart() -> None:
    watch = Watch(READY, READY)
    watch.starts.note("draft", None)
    assert (watch.find(1.0), watch.find(1.0, "draft")) == (Start.WARM, Start.COLD)
