"""The draft engine's queue and its promises, around models that the test opens and closes like a gate."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from serve_app.engines.draft import DraftEngine
from serve_app.engines.migan import Inpaint
from serve_app.engines.protocol import (
    Cancelled,
    Crop,
    Done,
    Engine,
    Event,
    Failed,
    FillRequest,
    Image,
    Mask,
    Queued,
    Step,
    TextToImageRequest,
)
from serve_app.errors import EngineFailed

LONG_S = 10.0  # a real time-out for what should come at once


class HandClock:
    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


class Gate:
    """A model that waits to be let through, one call at a time, and inverts the image; entered calls are counted."""

    def __init__(self) -> None:
        self.entered: queue.Queue[int] = queue.Queue()
        self.tickets: queue.Queue[Exception | None] = queue.Queue()

    def __call__(self, image: Image, mask: Mask) -> Image:
        self.entered.put(int(image[0, 0, 0]))
        ticket = self.tickets.get(timeout=LONG_S)
        if ticket is not None:
            raise ticket
        return 255 - image

    def wait_entered(self) -> int:
        return self.entered.get(timeout=LONG_S)

    def open(self, times: int = 1) -> None:
        for _ in range(times):
            self.tickets.put(None)


class Listener:
    """Collects one request's events."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ended = threading.Event()
        self.threads: set[str] = set()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.threads.add(threading.current_thread().name)
        if isinstance(event, Done | Failed | Cancelled):
            self.ended.set()

    def last(self) -> Event:
        assert self.ended.wait(LONG_S), f"no end came after {self.events}"
        return self.events[-1]

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events]


def make_crop(mark: int = 0) -> Crop:
    image = np.random.default_rng(3).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    image[0, 0, 0] = mark
    mask = np.zeros((32, 48), np.uint8)
    mask[10:20] = 255
    return Crop(image, mask)


def make_request(
    request_id: str = "job",
    mark: int = 0,
    crops: int = 1,
    priority: int = 1,
    at: float = 0,
    deadline: float | None = None,
) -> FillRequest:
    return FillRequest(
        request_id=request_id,
        crops=(make_crop(mark),) * crops,
        prompt="",
        steps=1,
        guidance=0,
        seed=0,
        priority=priority,
        submitted_at=at,
        deadline_at=deadline,
    )


def submit(engine: DraftEngine, request: FillRequest) -> Listener:
    listener = Listener()
    engine.submit(request, listener)
    return listener


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def engine(gate: Gate, clock: HandClock) -> Iterator[DraftEngine]:
    engine = DraftEngine(gate, clock=clock)
    yield engine
    gate.open(20)
    engine.close()


def test_it_is_an_engine(engine: DraftEngine) -> None:
    as_protocol: Engine = engine
    assert as_protocol.name == "draft"


def test_a_request_is_queued_stepped_and_done(engine: DraftEngine, gate: Gate) -> None:
    gate.open(3)
    request = make_request(crops=3)
    listener = submit(engine, request)
    done = listener.last()
    assert isinstance(done, Done)
    assert listener.kinds() == ["Queued", "Step", "Step", "Step", "Step", "Done"]
    assert listener.events[0] == Queued(0)
    assert [(e.step, e.steps) for e in listener.events if isinstance(e, Step)] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert len(done.result.images) == 3
    assert all((image == 255 - request.crops[0].image).all() for image in done.result.images)
    assert done.result.gpu_seconds == 0
    assert listener.threads == {"draft-engine"}


def test_times_come_from_the_clock(clock: HandClock) -> None:
    def slow(image: Image, mask: Mask) -> Image:
        clock.time += 4
        return image

    engine = DraftEngine(slow, clock=clock)
    listener = submit(engine, make_request(crops=3))
    done = listener.last()
    engine.close()
    assert isinstance(done, Done)
    assert done.result.engine_seconds == 12
    assert [e.eta_s for e in listener.events if isinstance(e, Step)] == [None, 8, 4, 0]


def test_the_most_urgent_goes_first_then_the_oldest_then_the_first_submitted(engine: DraftEngine, gate: Gate) -> None:
    first = submit(engine, make_request("first", mark=1))
    assert gate.wait_entered() == 1
    waiting = [
        submit(engine, make_request("late", mark=5, priority=1, at=20)),
        submit(engine, make_request("early", mark=3, priority=1, at=10)),
        submit(engine, make_request("early too", mark=4, priority=1, at=10)),
        submit(engine, make_request("urgent", mark=2, priority=0, at=30)),
    ]
    gate.open(5)
    for listener in (first, *waiting):
        assert isinstance(listener.last(), Done)
    assert [gate.wait_entered() for _ in range(4)] == [2, 3, 4, 5]


def test_those_who_wait_are_told_their_place(engine: DraftEngine, gate: Gate) -> None:
    submit(engine, make_request("running", crops=2))
    gate.wait_entered()
    slow = submit(engine, make_request("slow", priority=2))
    urgent = submit(engine, make_request("urgent", priority=0))
    gate.open()
    gate.wait_entered()  # the second crop of the running one: positions are told between crops
    assert (urgent.events, slow.events) == ([Queued(1)], [Queued(2)])


def test_a_waiting_request_is_cancelled_without_running(engine: DraftEngine, gate: Gate) -> None:
    submit(engine, make_request("running", mark=1))
    assert gate.wait_entered() == 1
    waiting = submit(engine, make_request("waiting", mark=2))
    engine.cancel("waiting")
    gate.open()
    assert waiting.last() == Cancelled()
    assert gate.entered.empty()


def test_a_running_request_is_cancelled_between_crops(engine: DraftEngine, gate: Gate) -> None:
    listener = submit(engine, make_request(crops=3))
    gate.wait_entered()
    engine.cancel("job")
    gate.open()
    assert listener.last() == Cancelled()
    assert gate.entered.empty()


def test_a_cancel_that_comes_too_late_or_for_nobody_changes_nothing(engine: DraftEngine, gate: Gate) -> None:
    gate.open()
    listener = submit(engine, make_request())
    listener.last()
    engine.cancel("job")
    engine.cancel("nobody")
    gate.open()
    assert isinstance(submit(engine, make_request()).last(), Done)
    assert listener.kinds().count("Done") == 1
    assert "Cancelled" not in listener.kinds()


def test_a_deadline_ends_a_running_request_between_crops(engine: DraftEngine, gate: Gate, clock: HandClock) -> None:
    listener = submit(engine, make_request(crops=2, deadline=1010))
    gate.wait_entered()
    clock.time = 1010
    gate.open()
    failed = listener.last()
    assert isinstance(failed, Failed)
    assert (failed.code, failed.retryable) == ("deadline_exceeded", False)
    assert gate.entered.empty()


def test_a_deadline_ends_a_waiting_request(engine: DraftEngine, gate: Gate, clock: HandClock) -> None:
    submit(engine, make_request("running"))
    gate.wait_entered()
    waiting = submit(engine, make_request("waiting", deadline=1010))
    clock.time = 1020
    gate.open()
    failed = waiting.last()
    assert isinstance(failed, Failed)
    assert failed.code == "deadline_exceeded"
    assert gate.entered.empty()


@pytest.mark.parametrize("error", [EngineFailed("onnxruntime failed"), RuntimeError("bad graph")])
def test_a_model_that_raises_fails_its_request_and_not_the_next(
    engine: DraftEngine, gate: Gate, error: Exception
) -> None:
    gate.tickets.put(error)
    failed = submit(engine, make_request()).last()
    assert isinstance(failed, Failed)
    assert (failed.code, failed.retryable) == ("engine_failed", True)
    assert str(error) in failed.message
    gate.open()
    assert isinstance(submit(engine, make_request()).last(), Done)


def not_a_number(image: Image, mask: Mask) -> Image:
    return np.full(image.shape, np.nan, np.float32)


def flat(image: Image, mask: Mask) -> Image:
    return np.where(mask[..., None] > 0, np.uint8(0), np.clip(image, 100, 255)).astype(np.uint8)


def cut_off(image: Image, mask: Mask) -> Image:
    return image[:-1]


@pytest.mark.parametrize("model", [not_a_number, flat, cut_off])
def test_an_output_that_is_no_picture_fails(model: Inpaint) -> None:
    crop = make_crop(200)
    bright = Crop(np.clip(crop.image, 100, 255), crop.mask)
    engine = DraftEngine(model)
    listener = Listener()
    engine.submit(replace(make_request(), crops=(bright,)), listener)
    failed = listener.last()
    engine.close()
    assert isinstance(failed, Failed)
    assert (failed.code, failed.retryable) == ("engine_failed", True)


@pytest.mark.parametrize("crops", [(), (Crop(np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8), np.uint8)),)])
def test_a_request_that_cannot_be_done_is_rejected(engine: DraftEngine, gate: Gate, crops: tuple[Crop, ...]) -> None:
    listener = Listener()
    engine.submit(replace(make_request(), crops=crops), listener)
    failed = listener.last()
    assert isinstance(failed, Failed)
    assert (failed.code, failed.retryable) == ("engine_rejected", False)
    assert gate.entered.empty()


def test_a_task_that_it_does_not_do_is_rejected(engine: DraftEngine, gate: Gate) -> None:
    listener = Listener()
    request = TextToImageRequest(request_id="job", prompt="a dog", steps=1, guidance=0, seed=0, width=64, height=64)
    engine.submit(request, listener)
    failed = listener.last()
    assert isinstance(failed, Failed)
    assert failed.code == "engine_rejected"
    assert "does not do text-to-image" in failed.message
    assert gate.entered.empty()


def test_a_callback_that_raises_does_not_stop_the_engine(engine: DraftEngine, gate: Gate) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("the watcher is gone")

    gate.open(2)
    engine.submit(make_request("broken"), broken)
    assert isinstance(submit(engine, make_request("next")).last(), Done)


def test_busy_seconds_tell_how_long_the_current_crop_runs(engine: DraftEngine, gate: Gate, clock: HandClock) -> None:
    assert engine.busy_seconds() == 0
    listener = submit(engine, make_request(crops=2))
    gate.wait_entered()
    clock.time += 7
    assert engine.busy_seconds() == 7
    gate.open()
    gate.wait_entered()
    assert engine.busy_seconds() == 0, "a new crop counts from its own start"
    gate.open()
    listener.last()
    assert engine.busy_seconds() == 0


def test_a_model_that_raises_is_not_busy_afterwards(engine: DraftEngine, gate: Gate, clock: HandClock) -> None:
    gate.tickets.put(RuntimeError("bad graph"))
    submit(engine, make_request()).last()
    clock.time += 100
    assert engine.busy_seconds() == 0


def test_close_cancels_what_runs_and_what_waits(gate: Gate) -> None:
    engine = DraftEngine(gate)
    running = submit(engine, make_request("running", crops=2))
    gate.wait_entered()
    waiting = submit(engine, make_request("waiting"))
    closing = threading.Thread(target=engine.close)
    closing.start()
    while not engine._closed:  # close has no other sign that it began
        threading.Event().wait(0.001)
    gate.open()
    closing.join(LONG_S)
    assert (running.last(), waiting.last()) == (Cancelled(), Cancelled())
    assert gate.entered.empty()
    assert submit(engine, make_request("after")).events == [Cancelled()]
    engine.close()


def test_close_leaves_a_hung_model_behind_and_its_request_ends_once(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.engines.serial.CLOSE_JOIN_S", 0.01)
    engine = DraftEngine(gate)
    listener = submit(engine, make_request())
    gate.wait_entered()
    engine.close()
    assert listener.last() == Cancelled()
    gate.open()
    engine._thread.join(LONG_S)
    assert listener.kinds() == ["Queued", "Step", "Cancelled"]


def test_many_threads_submit_and_cancel_and_every_request_ends_once() -> None:
    engine = DraftEngine(lambda image, mask: 255 - image)
    listeners = [Listener() for _ in range(60)]

    def run(share: int) -> None:
        for index in range(share, 60, 4):
            engine.submit(make_request(f"job-{index}", priority=index % 3), listeners[index])
            if index % 5 == 0:
                engine.cancel(f"job-{index}")

    threads = [threading.Thread(target=run, args=(share,)) for share in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    for index, listener in enumerate(listeners):
        last = listener.last()
        assert isinstance(last, Done) or (index % 5 == 0 and last == Cancelled())
    engine.close()
    ends = [sum(kind in {"Done", "Failed", "Cancelled"} for kind in listener.kinds()) for listener in listeners]
    assert ends == [1] * 60
