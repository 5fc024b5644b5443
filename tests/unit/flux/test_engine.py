"""The FLUX engine's promises one by one, around a model and prompts that do what the test says."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from serve_app.engines.protocol import (
    Decoding,
    Done,
    Engine,
    Failed,
    Queued,
    Step,
)
from serve_app.flux.engine import FluxEngine
from serve_app.flux.held import REMIND_S
from serve_app.flux.stepping import Limits, Work
from serve_app.metrics import PlainSink
from tests.flux_fakes import BASE, FakeModel, FakePrompts, make_fill, make_image_to_image, make_text_to_image, paint
from tests.flux_lockstep import LockStep, as_failed, begin_two, failures, images_of, run

URGENT = 0


@pytest.fixture
def bench() -> Iterator[LockStep]:
    bench = LockStep()
    yield bench
    bench.close()


def test_it_is_an_engine(bench: LockStep) -> None:
    engine: Engine = bench.engine
    assert engine.name == "flux"
    other = FluxEngine(FakeModel(), FakePrompts(), Limits(), sink=PlainSink(), name="flux-base")
    assert other.name == "flux-base"
    other.close()


# -- one request -------------------------------------------------------------------------------------------------------


def test_a_request_is_queued_stepped_decoded_and_done(bench: LockStep) -> None:
    request = make_fill(steps=2, seed=7)
    listener = bench.submit(request)
    while bench.call is not None:
        bench.finish(seconds=3)
    assert listener.events[:-1] == [Queued(0), Step(0, 2), Step(1, 2, 3.0), Step(2, 2, 0.0), Decoding()]
    (image,) = images_of(listener.last())
    assert [call.work for call in bench.model.calls] == [Work.ENCODE, Work.STEP, Work.STEP, Work.DECODE]
    assert (image == paint(bench.model.calls[0].samples[0], steps=2)).all()
    assert bench.model.calls[0].samples[0].image is request.crops[0].image
    assert listener.threads == {"flux-engine"}


def test_crops_have_seeds_of_their_own_and_images_come_in_their_order(bench: LockStep) -> None:
    listener = bench.submit(make_fill(sides=((32, 32), (16, 48), (32, 32)), steps=2, seed=40))
    while bench.call is not None:
        bench.finish()
    images = images_of(listener.last())
    encoded = [call.samples[0] for call in bench.model.calls if call.work is Work.ENCODE]
    by_seed = {sample.seed: sample for sample in encoded}
    assert set(by_seed) == {40, 41, 42}
    for index, image in enumerate(images):
        assert (image == paint(by_seed[40 + index], steps=2)).all()
    assert [image.shape for image in images] == [(32, 32, 3), (48, 16, 3), (32, 32, 3)]


def test_progress_is_the_average_of_the_crops_and_never_goes_back(bench: LockStep) -> None:
    listener = bench.submit(make_fill(sides=((32, 32), (16, 48)), steps=2))
    while bench.call is not None:
        bench.finish()
    assert [(event.step, event.steps) for event in listener.of(Step)] == [(0, 2), (0, 2), (1, 2), (1, 2), (2, 2)]
    assert listener.kinds() == ["Queued", "Step", "Decoding", "Done"]
    assert len(listener.of(Decoding)) == 1


def test_the_other_tasks_give_one_image() -> None:
    text = make_text_to_image(width=48)
    image = make_image_to_image(np.zeros((32, 48, 3), np.uint8), "other", strength=0.5)
    model = FakeModel(BASE)
    ends = run(model, text, image)
    assert [[one.shape for one in images_of(end)] for end in ends] == [[(32, 48, 3)]] * 2
    assert sum(call.work is Work.STEP for call in model.calls) in {2, 3}, "two steps, and one of the half"


def test_the_negative_prompt_is_encoded_only_for_true_guidance() -> None:
    model, prompts = FakeModel(), FakePrompts(lengths={"leash": 256})
    run(model, make_fill(negative_prompt="leash", true_cfg=4.0), prompts=prompts)
    assert prompts.asked == ["grass", "leash"]
    assert {call.negative_lengths for call in model.calls} == {(256,)}
    assert {call.text_lengths for call in model.calls} == {(128,)}
    for request in (make_fill(negative_prompt="leash"), make_fill(true_cfg=4.0)):
        model, prompts = FakeModel(), FakePrompts()
        run(model, request, prompts=prompts)
        assert prompts.asked == ["grass"]
        assert {call.negative_lengths for call in model.calls} == {(None,)}


# -- what is refused at once -------------------------------------------------------------------------------------------


def test_what_the_model_cannot_do_is_rejected_with_who_can(bench: LockStep) -> None:
    listener = bench.submit(make_text_to_image())
    (failed,) = listener.events
    assert as_failed(failed) == ("engine_rejected", False)
    assert isinstance(failed, Failed)
    assert "flux-dev does" in failed.message
    assert bench.call is None
    assert bench.prompts.asked == []


def test_what_is_out_of_range_is_rejected(bench: LockStep) -> None:
    for number, request in enumerate((make_fill(sides=()), make_fill(sides=((40, 32),)), make_fill(steps=0)), start=1):
        assert as_failed(bench.submit(request).last()) == ("engine_rejected", False)
        assert failures(bench.sink, "engine_rejected") == number


def test_a_request_without_a_place_is_refused_at_once() -> None:
    bench = LockStep(Limits(places=1, urgent_places=1))
    running = bench.submit(make_fill("running", seed=10))
    begun = bench.call
    refused = bench.submit(make_fill("refused"))
    assert as_failed(refused.events[0]) == ("engine_full", True)
    assert refused.threads == {threading.current_thread().name}
    assert bench.call is begun
    urgent = bench.submit(make_fill("urgent", seed=20, priority=URGENT))
    assert urgent.events == []
    assert as_failed(bench.submit(make_fill("too many", priority=URGENT)).last()) == ("engine_full", True)
    assert failures(bench.sink, "engine_full") == 2
    assert bench.prompts.asked == ["grass"] * 2, "prompts of refused requests are not encoded"
    bench.finish()
    assert bench.call is not None
    assert bench.call.seeds == (20,)
    while bench.call is not None:
        bench.finish()
    assert len(images_of(running.last())) == len(images_of(urgent.last())) == 1
    assert bench.submit(make_fill("again")).events != [], "places are given back"
    bench.close()


def test_an_id_that_is_held_is_refused_and_its_holder_goes_on(bench: LockStep) -> None:
    holder = bench.submit(make_fill())
    again = bench.submit(make_fill())
    assert as_failed(again.last()) == ("engine_unavailable", True)
    while bench.call is not None:
        bench.finish()
    assert len(images_of(holder.last())) == 1
    assert len(again.events) == 1
    third = bench.submit(make_fill())
    assert third.kinds() == ["Queued", "Step"], "an id may come again when its holder has ended"


# -- sharing and being overtaken ---------------------------------------------------------------------------------------


def test_requests_share_steps_and_the_sink_is_told(bench: LockStep) -> None:
    begin_two(bench, true_cfg=4.0, negative_prompt="leash")
    bench.finish(seconds=2)
    assert bench.sink.value("pawfect_engine_batch_rows_sum", engine="flux") == 4
    assert bench.sink.value("pawfect_engine_batch_rows_count", engine="flux") == 1
    assert bench.sink.value("pawfect_engine_tick_seconds_sum", engine="flux", work="step") == 2
    assert bench.sink.value("pawfect_engine_tick_seconds_count", engine="flux", work="encode") == 2
    assert bench.sink.value("pawfect_engine_requests", engine="flux", state="running") == 2
    bench.submit(make_fill("urgent", priority=URGENT, seed=30))
    bench.submit(make_fill("slow", sides=((16, 16),), submitted_at=9e9))
    bench.finish()
    assert bench.sink.value("pawfect_engine_requests", engine="flux", state="waiting") == 2
    while bench.call is not None:
        bench.finish()
    for state in ("waiting", "running"):
        assert bench.sink.value("pawfect_engine_requests", engine="flux", state=state) == 0


def test_an_urgent_request_takes_the_next_tick_and_the_paused_one_goes_on(bench: LockStep) -> None:
    paused = bench.submit(make_fill("paused", steps=4, seed=10, sides=((64, 64),)))
    bench.finish_until(Work.STEP, 10)
    bench.finish()
    urgent = bench.submit(make_fill("urgent", steps=2, seed=20, priority=URGENT))
    began = len(bench.model.calls)
    while bench.call is not None:
        bench.finish()
    seeds = [call.seeds for call in bench.model.calls[began:]]
    assert seeds == [(20,)] * 4 + [(10,)] * 3, "after the step under way: encode, two steps, decode; then the rest"
    assert (images_of(paused.last())[0] == paint(bench.model.calls[0].samples[0], steps=4)).all()
    assert len(images_of(urgent.last())) == 1


def test_those_who_wait_are_told_their_place(bench: LockStep) -> None:
    bench.submit(make_fill("running", seed=10, sides=((64, 64),)))
    normal = bench.submit(make_fill("normal", sides=((16, 16),)))
    low = bench.submit(make_fill("low", priority=2))
    assert normal.events == low.events == [], "nobody is told anything during a tick"
    bench.finish()
    assert (normal.events, low.events) == ([Queued(1)], [Queued(2)])
    bench.finish()
    assert len(normal.of(Queued)) == 2, "the estimate is news"
    assert [event.position for event in normal.of(Queued)] == [1, 1]
    urgent = bench.submit(make_fill("urgent", priority=URGENT))
    bench.finish()
    assert (urgent.of(Queued)[0].position, normal.of(Queued)[-1].position, low.of(Queued)[-1].position) == (0, 2, 3)


def test_times_are_estimated_once_a_step_was_measured(bench: LockStep) -> None:
    one = bench.submit(make_fill("one", seed=10, steps=3))
    two = bench.submit(make_fill("two", seed=20, steps=3, sides=((32, 64),), submitted_at=1))
    bench.finish(seconds=1)  # encode
    assert one.events == [Queued(0), Step(0, 3)]
    assert two.events == [Queued(1)]
    bench.finish(seconds=4)  # the first step
    assert one.events[-1] == Step(1, 3, eta_s=8.0)
    # Two steps of the first at 4 s; one encoding at 2 s and three steps at 8 s of the second, which is twice as large.
    assert two.events[-1] == Queued(1, eta_s=8.0 + 2.0 + 24.0)
    before = len(two.events)
    bench.finish(seconds=4)
    assert one.events[-1] == Step(2, 3, eta_s=4.0)
    assert two.events[before:] == [Queued(1, eta_s=30.0)]


def test_what_is_not_news_is_not_told(bench: LockStep) -> None:
    running = bench.submit(make_fill("running", seed=10, sides=((32, 32),) * 3, steps=4))
    waiting = bench.submit(make_fill("waiting", seed=20, sides=((16, 16),), steps=4))
    while not waiting.of(Step):
        bench.finish(seconds=0.0625)
    queued = waiting.of(Queued)
    news = [(event.position, None if event.eta_s is None else round(event.eta_s)) for event in queued]
    assert news == [(1, None), (1, 0), (0, 0)], "fractions of a second are none"
    assert len(running.of(Decoding)) == 1, "it is told once, and not for each crop"


def pause_for_long(bench: LockStep, ticks: int, tick_s: float) -> None:
    bench.submit(make_fill("urgent", priority=URGENT, steps=ticks, seed=90, sides=((64, 64),)))
    for _ in range(ticks):
        bench.finish(seconds=tick_s)


def test_a_paused_request_is_told_now_and_then_that_it_is_not_forgotten(bench: LockStep) -> None:
    paused = bench.submit(make_fill("paused", steps=3, seed=10))
    bench.finish_until(Work.STEP, 10)
    bench.finish()
    before = len(paused.events)
    pause_for_long(bench, ticks=13, tick_s=REMIND_S / 4)
    told = paused.events[before:]
    # The step under way ended and was told; three times REMIND_S passed since.
    assert [event.step for event in told if isinstance(event, Step)] == [2, 2, 2, 2]
    assert len(told) == 4
    etas = [event.eta_s for event in told[1:]]
    assert all(eta is not None for eta in etas)
    assert etas == sorted(etas, reverse=True)


def test_a_request_paused_between_its_decodings_is_not_forgotten_either(bench: LockStep) -> None:
    """Whoever waits for it takes a long silence of a request that has begun for a hang."""
    paused = bench.submit(make_fill("paused", steps=1, seed=10, sides=((32, 32),) * 2))
    bench.finish_until(Work.DECODE, 10)
    before = len(paused.events)
    pause_for_long(bench, ticks=13, tick_s=REMIND_S / 4)
    assert len(paused.events[before:]) >= 3
    while bench.call is not None:
        bench.finish()
    assert paused.kinds() == ["Queued", "Step", "Decoding", "Done"]


# -- what it costs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uses_accelerator", [False, True])
def test_the_seconds_charged_add_up_to_the_time_of_all_ticks(uses_accelerator: bool) -> None:
    bench = LockStep(model=FakeModel(uses_accelerator=uses_accelerator))
    one = bench.submit(make_fill("one", steps=2, seed=10))
    two = bench.submit(make_fill("two", steps=3, seed=20, true_cfg=4.0, negative_prompt="leash"))
    spent = 0.0
    while bench.call is not None:
        bench.finish(seconds=3.0)
        spent += 3.0
    results = [event.result for event in (one.last(), two.last()) if isinstance(event, Done)]
    # Encode, decode and two steps shared with one of twice as many rows; encode, decode, the rest of these and a step.
    assert [result.engine_seconds for result in results] == [pytest.approx(8.0), pytest.approx(13.0)]
    assert sum(result.engine_seconds for result in results) == pytest.approx(spent)
    for result in results:
        assert result.gpu_seconds == (result.engine_seconds if uses_accelerator else 0.0)
    bench.close()


def test_busy_seconds_tell_how_long_the_call_under_way_runs(bench: LockStep) -> None:
    assert bench.engine.busy_seconds() == 0
    bench.submit(make_fill(steps=1))
    bench.clock.time += 7
    assert bench.engine.busy_seconds() == 7
    bench.finish(seconds=1)
    assert bench.engine.busy_seconds() == 0, "a new call counts from its own start"
    bench.clock.time += 5
    bench.finish(RuntimeError("bad graph"))
    assert bench.call is None
    assert bench.engine.busy_seconds() == 0
