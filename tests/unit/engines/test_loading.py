"""Loading a model: retries, backoff, the time limit, and hangs, on a clock that only the test moves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from serve_app.engines.loading import Loader, LoadState, Phase
from serve_app.errors import ConfigurationError, EngineUnavailable, WeightsUnavailable

LONG_S = 10.0  # a real time-out for what should come at once


class HandClock:
    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


class Sleeper:
    """Instead of sleeping, moves the clock."""

    def __init__(self, clock: HandClock) -> None:
        self.clock = clock
        self.slept: list[float] = []

    def __call__(self, seconds: float) -> bool:
        self.slept.append(seconds)
        self.clock.time += seconds
        return False


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def sleeper(clock: HandClock) -> Sleeper:
    return Sleeper(clock)


def in_turn(*outcomes: str | Exception) -> Callable[[], str]:
    """A load that gives or raises one outcome per call."""
    left: Iterator[str | Exception] = iter(outcomes)

    def load() -> str:
        outcome = next(left)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return load


def make(
    load: Callable[[], str], clock: HandClock, sleeper: Sleeper | None = None, timeout_s: float = 600
) -> Loader[str]:
    return Loader(load, name="draft", timeout_s=timeout_s, backoff_s=1, clock=clock, sleep=sleeper)


def no_threads_named(name: str) -> bool:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(LONG_S)
    return all(thread.name != name for thread in threading.enumerate())


def test_nothing_happens_before_start(clock: HandClock) -> None:
    loader = make(in_turn(), clock)
    clock.time += 10_000
    assert loader.state() == LoadState(Phase.LOADING, None, 0.0)


def test_a_load_that_works_is_ready_with_its_value(clock: HandClock) -> None:
    loader = make(in_turn("model"), clock)
    loader.start()
    assert loader.wait(LONG_S) == "model"
    assert loader.value == "model"
    assert loader.state() == LoadState(Phase.READY, None, 0.0)


def test_transient_errors_are_tried_again_with_doubling_pauses_up_to_30_s(clock: HandClock, sleeper: Sleeper) -> None:
    loader = make(in_turn(*[WeightsUnavailable("no weights yet")] * 7, "model"), clock, sleeper)
    loader.start()
    assert no_threads_named("load-draft")
    assert loader.value == "model"
    assert sleeper.slept == [1, 2, 4, 8, 16, 30, 30]
    assert loader.state().seconds == sum(sleeper.slept)


def test_any_other_error_is_final_at_once(clock: HandClock, sleeper: Sleeper) -> None:
    loader = make(in_turn(ConfigurationError("the file is no model"), "never"), clock, sleeper)
    loader.start()
    with pytest.raises(EngineUnavailable, match="the file is no model"):
        loader.wait(LONG_S)
    assert loader.state() == LoadState(Phase.FAILED, "the file is no model", 0.0)
    assert sleeper.slept == []


def test_a_foreign_error_is_named(clock: HandClock) -> None:
    loader = make(in_turn(MemoryError("28 GB")), clock)
    loader.start()
    with pytest.raises(EngineUnavailable, match="MemoryError: 28 GB"):
        loader.wait(LONG_S)


def test_retries_end_with_the_time_and_the_last_error_is_told(clock: HandClock, sleeper: Sleeper) -> None:
    loader = make(in_turn(*[WeightsUnavailable("the hub is down")] * 4), clock, sleeper, timeout_s=6)
    loader.start()
    assert no_threads_named("load-draft")
    state = loader.state()
    assert state.phase is Phase.FAILED
    assert state.reason == "draft did not load within 6 s; the last error was: the hub is down"
    assert sleeper.slept == [1, 2, 4]


def test_a_hung_load_is_failed_by_the_clock_and_its_late_success_is_dropped(clock: HandClock) -> None:
    inside, release = threading.Event(), threading.Event()

    def hang() -> str:
        inside.set()
        assert release.wait(LONG_S)
        return "too late"

    loader = make(hang, clock, timeout_s=60)
    loader.start()
    assert inside.wait(LONG_S)
    clock.time += 59
    assert loader.state() == LoadState(Phase.LOADING, None, 59.0)
    clock.time += 1
    failed = LoadState(Phase.FAILED, "draft did not load within 60 s", 60.0)
    assert loader.state() == failed
    with pytest.raises(EngineUnavailable, match="did not load within 60 s"):
        loader.wait(LONG_S)
    release.set()
    assert no_threads_named("load-draft")
    assert loader.state() == failed
    with pytest.raises(EngineUnavailable):
        _ = loader.value


def test_a_late_success_nobody_looked_at_before_is_dropped_too(clock: HandClock) -> None:
    def slow() -> str:
        clock.time += 61
        return "too late"

    loader = make(slow, clock, timeout_s=60)
    loader.start()
    assert no_threads_named("load-draft")
    assert loader.state().phase is Phase.FAILED


def test_waiting_gives_up_after_its_own_time(clock: HandClock) -> None:
    release = threading.Event()

    def hang() -> str:
        assert release.wait(LONG_S)
        return "model"

    loader = make(hang, clock)
    loader.start()
    clock.time += 5
    with pytest.raises(EngineUnavailable, match="still loading after 5 s"):
        loader.wait(0)
    release.set()
    assert loader.wait(LONG_S) == "model"


def test_close_ends_the_pause_between_tries(clock: HandClock) -> None:
    tried = threading.Event()

    def load() -> str:
        tried.set()
        raise WeightsUnavailable("the hub is down")

    loader = Loader(load, name="draft", timeout_s=1e9, backoff_s=1000, clock=clock)
    loader.start()
    assert tried.wait(LONG_S)
    loader.close()
    assert no_threads_named("load-draft")
    assert loader.state().reason == "draft was closed while it loaded"


def test_close_leaves_a_ready_model_ready(clock: HandClock) -> None:
    loader = make(in_turn("model"), clock)
    loader.start()
    loader.wait(LONG_S)
    loader.close()
    assert loader.value == "model"


def test_none_is_a_value(clock: HandClock) -> None:
    loader: Loader[None] = Loader(lambda: None, name="draft", timeout_s=60, backoff_s=1, clock=clock)
    loader.start()
    assert loader.wait(LONG_S) is None
    assert loader.state().phase is Phase.READY
