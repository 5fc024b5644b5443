"""The promises of the serial queue that do not depend on what the work is."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serve_app.engines.protocol import Cancelled, Done, EngineResult, Event, Failed, Queued, Step, TextToImageRequest
from serve_app.engines.serial import SerialEngine, Turn
from serve_app.errors import EngineFailed, EngineRejected, HeadshotRejected
from tests.log_lines import capture
from tests.spans import PARENT, SPAN, TRACE, KeptTracing, show_parent, show_trace
from tests.tokens import HandClock

LONG_S = 10.0  # a real time-out for what should come at once
RESULT = EngineResult(images=(), engine_seconds=1.0, gpu_seconds=0.0)


class Listener:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ended = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Done | Failed | Cancelled):
            self.ended.set()

    def last(self) -> Event:
        assert self.ended.wait(LONG_S), f"no end came after {self.events}"
        return self.events[-1]


class Script:
    """The work: what a test puts into `turns` is done, one entry per request, when it is there."""

    def __init__(self) -> None:
        self.turns: queue.Queue[Callable[[Turn], object]] = queue.Queue()
        self.begun: queue.Queue[str] = queue.Queue()

    def __call__(self, turn: Turn) -> EngineResult:
        self.begun.put(turn.request.request_id)
        self.turns.get(timeout=LONG_S)(turn)
        return RESULT


def make_request(name: str = "a", **more: Any) -> TextToImageRequest:
    values = {"prompt": "", "steps": 1, "guidance": 0.0, "seed": 0, "width": 64, "height": 64}
    return TextToImageRequest(request_id=name, **values, **more)


def submit(engine: SerialEngine, name: str = "a", *, deadline: float | None = None, priority: int = 1) -> Listener:
    listener = Listener()
    engine.submit(make_request(name, deadline_at=deadline, priority=priority), listener)
    return listener


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def engine(script: Script, clock: HandClock) -> Iterator[SerialEngine]:
    engine = SerialEngine("serial", script, clock=clock)
    yield engine
    for _ in range(20):
        script.turns.put(lambda turn: turn.check_in())
    engine.close()


class RunningClock:
    """Each look at it is a second later than the one before."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        self.time += 1.0
        return self.time

    def monotonic(self) -> float:
        return self.now()


def test_a_request_that_comes_too_late_at_any_moment_is_told(script: Script) -> None:
    """Also when its deadline passes while the engine looks through those that wait."""
    engine = SerialEngine("serial", script, clock=RunningClock())
    running = submit(engine, "running")
    script.begun.get(timeout=LONG_S)
    waiting = [submit(engine, str(index), deadline=float(2 * index + 1)) for index in range(30)]
    script.turns.put(lambda turn: turn.tell(Step(0, 1)))
    assert isinstance(running.last(), Done)
    for listener in waiting:
        script.turns.put(lambda turn: turn.check_in())
        last = listener.last()
        assert isinstance(last, Failed | Done)
    engine.close()


def fail_piece(error: Exception, *, of_model: bool = True) -> Callable[[Turn], object]:
    def work(turn: Turn) -> None:
        with turn.piece("work", of_model=False):
            pass
        with turn.piece("work", of_model=of_model):
            raise error

    return work


def succeed(turn: Turn) -> None:
    with turn.piece("work"):
        pass


@pytest.mark.parametrize(
    ("turns", "failures"),
    [
        ([fail_piece(EngineFailed("x"))] * 3, 3),
        ([fail_piece(ValueError("x"))] * 3, 3),
        ([fail_piece(EngineFailed("x")), succeed], 0),
        ([fail_piece(EngineFailed("x")), succeed, fail_piece(EngineFailed("x"))], 1),
        ([fail_piece(EngineRejected("x"))], 0),
        ([fail_piece(EngineFailed("x")), fail_piece(HeadshotRejected("x", {})), fail_piece(EngineFailed("x"))], 2),
        ([fail_piece(EngineFailed("x"), of_model=False)] * 3, 0),
    ],
)
def test_the_models_failures_alone_are_counted(
    engine: SerialEngine, script: Script, turns: list[Callable[[Turn], object]], failures: int
) -> None:
    for turn in turns:
        script.turns.put(turn)
        submit(engine).last()
    assert engine.failures_in_a_row() == failures


def test_it_is_busy_as_long_as_a_piece_takes_and_not_between(
    engine: SerialEngine, script: Script, clock: HandClock
) -> None:
    seen: list[float] = []

    def work(turn: Turn) -> None:
        seen.append(engine.busy_seconds())
        with turn.piece("work", of_model=False):
            clock.time += 7
            seen.append(engine.busy_seconds())
        clock.time += 5
        seen.append(engine.busy_seconds())

    script.turns.put(work)
    submit(engine).last()
    assert seen == [0, 7, 0]


def test_a_piece_that_fails_is_over(engine: SerialEngine, script: Script, clock: HandClock) -> None:
    script.turns.put(fail_piece(ValueError("x")))
    submit(engine).last()
    clock.time += 100
    assert engine.busy_seconds() == 0


def test_a_deadline_acts_between_pieces(engine: SerialEngine, script: Script, clock: HandClock) -> None:
    def work(turn: Turn) -> None:
        with turn.piece("work"):
            clock.time += 10
        turn.check_in()

    script.turns.put(work)
    last = submit(engine, deadline=clock.time + 10).last()
    assert isinstance(last, Failed)
    assert (last.code, last.retryable) == ("deadline_exceeded", False)


def test_a_cancellation_acts_between_pieces_and_is_no_failure(engine: SerialEngine, script: Script) -> None:
    def work(turn: Turn) -> None:
        with turn.piece("work"):
            engine.cancel("a")
        turn.check_in()

    script.turns.put(work)
    assert submit(engine).last() == Cancelled()
    assert engine.failures_in_a_row() == 0


def test_what_an_error_says_reaches_the_listener(engine: SerialEngine, script: Script) -> None:
    quality = {"pass": False, "metrics": {}, "reasons": ["image_blurry"]}
    script.turns.put(fail_piece(HeadshotRejected("It is blurred.", quality)))
    assert submit(engine).last() == Failed("headshot_rejected", "It is blurred.", False, quality)
    script.turns.put(fail_piece(EngineFailed("It broke.")))
    assert submit(engine).last() == Failed("engine_failed", "It broke.", True)
    script.turns.put(fail_piece(KeyError("x")))
    last = submit(engine).last()
    assert isinstance(last, Failed)
    assert (last.code, last.retryable) == ("engine_failed", True)
    assert "KeyError" in last.message


def test_a_listener_that_raises_stops_nobody(engine: SerialEngine, script: Script) -> None:
    def raise_always(_event: Event) -> None:
        raise RuntimeError("no")

    script.turns.put(succeed)
    engine.submit(make_request(), raise_always)
    script.turns.put(succeed)
    assert isinstance(submit(engine, "b").last(), Done)


def test_closing_from_a_listener_ends_everything_once(script: Script, clock: HandClock) -> None:
    engine = SerialEngine("serial", script, clock=clock)
    listener = Listener()

    def close(event: Event) -> None:
        listener(event)
        if isinstance(event, Step):
            engine.close()

    engine.submit(make_request(), close)
    script.begun.get(timeout=LONG_S)
    waiting = submit(engine, "waiting")
    script.turns.put(lambda turn: turn.tell(Step(0, 1)))
    assert (listener.last(), waiting.last()) == (Cancelled(), Cancelled())
    engine._thread.join(LONG_S)
    assert not engine._thread.is_alive()
    ends = [event for event in listener.events if isinstance(event, Done | Failed | Cancelled)]
    assert ends == [Cancelled()]


def test_closing_while_it_works_ends_the_work_at_the_next_piece(script: Script, clock: HandClock) -> None:
    engine = SerialEngine("serial", script, clock=clock)
    running, waiting = submit(engine), submit(engine, "waiting")
    script.begun.get(timeout=LONG_S)
    closing = threading.Thread(target=engine.close)
    closing.start()
    while not engine._closed:  # close has no other sign that it began
        threading.Event().wait(0.001)
    script.turns.put(lambda turn: turn.check_in())
    closing.join(LONG_S)
    assert (running.last(), waiting.last()) == (Cancelled(), Cancelled())
    assert script.begun.empty()
    assert engine.busy_seconds() == 0


def test_places_are_counted_from_the_running_one(engine: SerialEngine, script: Script) -> None:
    submit(engine, "running")
    script.begun.get(timeout=LONG_S)
    first, second = submit(engine, "first"), submit(engine, "second")
    told = threading.Event()

    def work(turn: Turn) -> None:
        turn.tell(Step(0, 1))
        told.set()

    script.turns.put(work)
    assert told.wait(LONG_S)
    assert script.begun.get(timeout=LONG_S) == "first"
    assert (first.events, second.events[:1]) == ([Queued(1), Queued(0)], [Queued(2)])


def test_places_follow_the_order_of_urgency(engine: SerialEngine, script: Script) -> None:
    submit(engine, "running")
    script.begun.get(timeout=LONG_S)
    waiting = {priority: submit(engine, str(priority), priority=priority) for priority in (0, 4, 2, 3, 1)}
    script.turns.put(lambda turn: turn.tell(Step(0, 1)))
    assert script.begun.get(timeout=LONG_S) == "0"
    assert {priority: listener.events[0] for priority, listener in waiting.items()} == {
        priority: Queued(priority + 1) for priority in range(5)
    }


def test_pieces_are_spans_below_their_request_and_lines_carry_its_job(
    script: Script, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracing, lines = KeptTracing(), capture(monkeypatch)
    engine = SerialEngine("serial", script, clock=clock, trace=tracing)
    clock.time = 100.0

    def work(turn: Turn) -> None:
        with turn.piece("decode", of_model=False):
            clock.time += 2
        with turn.piece("fill"):
            clock.time += 3
            raise ValueError("no")

    for request in (make_request("job-1/2", traceparent=PARENT), make_request("job-2/1")):
        listener = Listener()
        engine.submit(request, listener)
        script.turns.put(work)
        assert isinstance(listener.last(), Failed)
    engine.close()
    assert [(span.name, span.start_time, span.end_time) for span in tracing.spans] == [
        ("decode", 100_000_000_000, 102_000_000_000),
        ("fill", 102_000_000_000, 105_000_000_000),
    ]
    assert {(show_trace(span), show_parent(span)) for span in tracing.spans} == {(TRACE, SPAN)}
    failures = [line for line in lines if line["severity"] == "ERROR"]
    assert [(line["job"], line.get("trace")) for line in failures] == [("job-1", TRACE), ("job-2", None)]
    assert "ValueError: no" in failures[0]["stack_trace"]
