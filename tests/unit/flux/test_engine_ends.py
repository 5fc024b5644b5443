"""How requests leave the FLUX engine before they are done: cancelled, late, or with the engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from serve_app.engines.protocol import (
    Cancelled,
    Decoding,
    Done,
    Event,
    Failed,
    Queued,
    Step,
)
from serve_app.engines.streaming import stream
from serve_app.flux.admission import make_samples
from serve_app.flux.engine import FluxEngine
from serve_app.flux.held import Held
from serve_app.flux.stepping import Limits, Work
from serve_app.metrics import PlainSink
from tests.flux_fakes import FILL, LONG_S, Call, FakeModel, FakePrompts, Listener, make_fill
from tests.flux_lockstep import LockStep, PassSink, as_failed, begin_two, failures, images_of
from tests.tokens import HandClock


@pytest.fixture
def bench() -> Iterator[LockStep]:
    bench = LockStep()
    yield bench
    bench.close()


# -- leaving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("work", [Work.ENCODE, Work.STEP])
def test_a_cancelled_request_is_gone_after_the_call_under_way(bench: LockStep, work: Work) -> None:
    listener = bench.submit(make_fill())
    bench.finish_until(work, 0)
    bench.engine.cancel("job")
    before = len(bench.model.calls)
    assert bench.finish() is None
    assert listener.last() == Cancelled()
    assert len(bench.model.calls) == before
    assert bench.sink.value("pawfect_engine_requests", engine="flux", state="running") == 0


def test_a_cancellation_during_the_last_decoding_comes_too_late(bench: LockStep) -> None:
    listener = bench.submit(make_fill())
    bench.finish_until(Work.DECODE, 0)
    bench.engine.cancel("job")
    bench.engine.cancel("nobody")
    bench.finish()
    assert len(images_of(listener.last())) == 1
    bench.engine.cancel("job")
    bench.settle()
    assert len(listener.ends()) == 1


def test_one_who_leaves_a_shared_step_takes_nobody_along(bench: LockStep) -> None:
    one, two = begin_two(bench)
    bench.engine.cancel("one")
    bench.finish()
    assert one.last() == Cancelled()
    assert bench.call is not None
    assert bench.call.seeds == (20,)
    assert two.ends() == []


def test_after_a_cancellation_no_call_begins_that_has_the_request() -> None:
    """The engine has already looked who is cancelled, but not yet begun the call."""
    model, listener = FakeModel(), Listener()
    begun_after: list[Call] = []
    cancelled = threading.Event()

    def cancel_late() -> None:
        if model.count(Work.ENCODE, 0) and not cancelled.is_set():
            engine.cancel("job")
            cancelled.set()

    def watch(call: Call) -> None:
        if cancelled.is_set():
            begun_after.append(call)

    model.hook = watch
    sink = PassSink(cancel_late)
    engine = FluxEngine(model, FakePrompts(), Limits(), sink=sink)
    engine.submit(make_fill(steps=5), listener)
    assert listener.last() == Cancelled()
    engine.close()
    assert begun_after == []


def test_a_deadline_ends_a_request_after_the_call_under_way(bench: LockStep) -> None:
    late = bench.submit(make_fill("late", seed=10, deadline_at=bench.clock.time + 10))
    other = bench.submit(make_fill("other", seed=20, deadline_at=bench.clock.time + 11))
    waiting = bench.submit(make_fill("waiting", sides=((16, 16),), priority=2, deadline_at=bench.clock.time + 10))
    bench.finish(seconds=9.5)
    assert late.ends() == waiting.ends() == []
    bench.finish(seconds=0.5)
    for listener in (late, waiting):
        assert as_failed(listener.last()) == ("deadline_exceeded", False)
    assert failures(bench.sink, "deadline_exceeded") == 2
    assert bench.call is not None
    assert (bench.call.work, bench.call.seeds) == (Work.STEP, (20,))
    assert other.ends() == []


async def test_a_disconnect_is_a_cancellation() -> None:
    clock, begun, go_on = HandClock(), threading.Event(), threading.Event()

    def hold(call: Call) -> None:
        if call.work is Work.STEP:
            begun.set()
            assert go_on.wait(LONG_S)

    model = FakeModel(hook=hold)
    engine = FluxEngine(model, FakePrompts(), Limits(), sink=PlainSink(), clock=clock)
    events = stream(engine, make_fill(steps=5, seed=10))
    assert isinstance(await anext(events), Queued)
    assert isinstance(await anext(events), Step)
    await asyncio.to_thread(begun.wait, LONG_S)
    await events.aclose()
    go_on.set()
    rest = [event async for event in stream(engine, make_fill("next", steps=1, seed=20))]
    assert isinstance(rest[-1], Done)
    assert model.count(Work.STEP, 10) == 1, "of the abandoned request only the step under way was finished"
    engine.close()


# -- closing -----------------------------------------------------------------------------------------------------------


def test_close_ends_what_runs_and_what_waits_and_takes_nothing_more() -> None:
    bench = LockStep(prompts=FakePrompts(slow=["slow"]))
    running = bench.submit(make_fill("running", seed=10))
    waiting = bench.submit(make_fill("waiting", priority=2))
    slow = bench.submit(make_fill("slow", prompt="slow"))
    calls = len(bench.model.calls)
    bench.close()
    for listener in (running, waiting, slow):
        assert listener.last() == Cancelled()
        assert len(listener.ends()) == 1
    assert len(bench.model.calls) == calls
    after = Listener()
    bench.engine.submit(make_fill("after"), after)
    assert after.events == [Cancelled()]
    bench.engine.close()
    bench.engine.cancel("after")
    bench.prompts.finish("slow")
    assert bench.engine.busy_seconds() == 0


def test_close_waits_for_the_call_under_way() -> None:
    bench = LockStep()
    listener = bench.submit(make_fill())
    closing = threading.Thread(target=bench.engine.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    assert listener.ends() == []
    bench.let_go()
    closing.join(LONG_S)
    assert not bench.engine._thread.is_alive()
    assert listener.last() == Cancelled()


def test_a_closed_engine_holds_no_requests_as_its_metrics_say() -> None:
    bench = LockStep()
    bench.submit(make_fill("running", seed=10))
    bench.submit(make_fill("waiting", priority=2, sides=((16, 16),)))
    bench.close()
    for state in ("waiting", "running"):
        assert bench.sink.value("pawfect_engine_requests", engine="flux", state=state) == 0


def test_close_leaves_a_hung_model_behind_and_its_request_ends_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.flux.engine.CLOSE_JOIN_S", 0.01)
    begun, go_on = threading.Event(), threading.Event()

    def hang(call: Call) -> None:
        begun.set()
        assert go_on.wait(LONG_S)

    model, listener = FakeModel(hook=hang), Listener()
    engine = FluxEngine(model, FakePrompts(), Limits(), sink=PlainSink())
    engine.submit(make_fill(), listener)
    assert begun.wait(LONG_S)
    engine.close()
    assert listener.last() == Cancelled()
    go_on.set()
    engine._thread.join(LONG_S)
    assert not engine._thread.is_alive()
    assert listener.kinds() == ["Queued", "Step", "Cancelled"]
    assert len(model.calls) == 1


def test_close_leaves_a_hung_callback_behind_and_the_thread_ends_without_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serve_app.flux.engine.CLOSE_JOIN_S", 0.01)
    hung, go_on = threading.Event(), threading.Event()
    bench = LockStep(prompts=FakePrompts(slow=["slow"]))

    def hang(event: Event) -> None:
        if isinstance(event, Failed):
            hung.set()
            assert go_on.wait(LONG_S)

    bench.engine.submit(make_fill("late", prompt="slow", deadline_at=bench.clock.time + 1), hang)
    other = bench.submit(make_fill("other", prompt="slow", submitted_at=1))
    bench.clock.time += 1
    bench.prompts.finish("slow")
    assert hung.wait(LONG_S)
    bench.engine.close()
    assert other.last() == Cancelled()
    go_on.set()
    bench.engine._thread.join(LONG_S)
    assert not bench.engine._thread.is_alive()
    assert other.kinds() == ["Queued", "Cancelled"]
    assert bench.model.calls == []


@pytest.mark.parametrize("when", [Queued, Step, Decoding, Done, Cancelled])
def test_a_callback_may_close_the_engine(when: type[Event]) -> None:
    """It runs in the engine's thread; the request beside it ends, too, and the thread ends without an error."""
    bench = LockStep(prompts=FakePrompts(slow=["slow"]))
    other = Listener()
    ended: list[Event] = []
    closed: list[type[Event]] = []

    def close(event: Event) -> None:
        if isinstance(event, Done | Failed | Cancelled):
            ended.append(event)
        if isinstance(event, when):
            bench.engine.close()
            closed.append(when)  # what close raises would only be logged

    bench.engine.submit(make_fill("closing", steps=1), close)
    bench.engine.submit(make_fill("other", prompt="slow", submitted_at=1), other)
    if when is Cancelled:
        bench.engine.cancel("closing")
    bench.prompts.finish("slow")
    bench.let_go()
    assert other.last() == Cancelled()
    bench.engine._thread.join(LONG_S)
    assert not bench.engine._thread.is_alive()
    assert closed == [when]
    assert len(ended) == 1


def test_a_callback_that_raises_does_not_stop_the_engine() -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("the watcher is gone")

    engine = FluxEngine(FakeModel(), FakePrompts(), Limits(), sink=PlainSink())
    engine.submit(make_fill("broken"), broken)
    listener = Listener()
    engine.submit(make_fill("next"), listener)
    assert len(images_of(listener.last())) == 1
    engine.close()


def test_nothing_follows_the_end_whoever_brings_it() -> None:
    """Whoever closes an engine whose model hangs and the engine's thread may both come to the end of a request."""
    listener = Listener()
    request = make_fill()
    held = Held(request, listener, make_samples(request, FILL))
    held.end(Cancelled())
    held.end(Failed("engine_failed", "too late", True))
    held.tell(0, None, 0.0)
    held.tell_begun(0.0, Work.ENCODE)
    assert listener.events == [Cancelled()]


def test_many_threads_submit_and_cancel_and_every_request_ends_once() -> None:
    count = 80
    model = FakeModel()
    engine = FluxEngine(model, FakePrompts(), Limits(places=20, urgent_places=4), sink=PlainSink())
    listeners = [Listener() for _ in range(count)]

    def use(share: int) -> None:
        for index in range(share, count, 4):
            engine.submit(make_fill(f"job-{index}", seed=index * 10, priority=index % 3), listeners[index])
            if index % 5 == 0:
                engine.cancel(f"job-{index}")

    threads = [threading.Thread(target=use, args=(share,)) for share in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    for index, listener in enumerate(listeners):
        last = listener.last()
        if isinstance(last, Failed):
            assert last.code == "engine_full"
        else:
            assert isinstance(last, Done) or (index % 5 == 0 and last == Cancelled())
    engine.close()
    assert [len(listener.ends()) for listener in listeners] == [1] * count
    assert [type(listener.events[-1]) in {Done, Failed, Cancelled} for listener in listeners] == [True] * count
