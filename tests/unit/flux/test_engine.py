"""The FLUX engine's promises one by one, around a model and prompts that do what the test says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from serve_app.engines.protocol import (
    Cancelled,
    Crop,
    Decoding,
    Done,
    Engine,
    Event,
    Failed,
    FillRequest,
    Image,
    ImageToImageRequest,
    Queued,
    Step,
    TextToImageRequest,
)
from serve_app.engines.streaming import stream
from serve_app.errors import EngineFailed, EngineRejected, OutputInvalid
from serve_app.flux.admission import SampleSpec
from serve_app.flux.engine import FluxEngine
from serve_app.flux.held import REMIND_S
from serve_app.flux.stepping import Limits, Work
from serve_app.metrics import PlainSink
from tests.flux_fakes import (
    BASE,
    FILL,
    LONG_S,
    Call,
    FakeModel,
    FakePrompts,
    Listener,
    LockStep,
    PassSink,
    make_fill,
    paint,
)
from tests.tokens import HandClock

URGENT, NORMAL = 0, 1
COMMON: dict[str, Any] = {"request_id": "job", "prompt": "grass", "steps": 2, "guidance": 3.5, "seed": 0}


@pytest.fixture
def bench() -> Iterator[LockStep]:
    bench = LockStep()
    yield bench
    bench.close()


def run(
    model: FakeModel, *requests: Any, prompts: FakePrompts | None = None, sink: PlainSink | None = None
) -> list[Event]:
    """The last events of requests of an engine that nobody holds up."""
    engine = FluxEngine(model, prompts or FakePrompts(), Limits(), sink=sink or PlainSink())
    listeners = [Listener() for _ in requests]
    for request, listener in zip(requests, listeners, strict=True):
        engine.submit(request, listener)
    ends = [listener.last() for listener in listeners]
    engine.close()
    return ends


def as_failed(event: Event) -> tuple[str, bool]:
    assert isinstance(event, Failed), event
    return event.code, event.retryable


def images_of(event: Event) -> tuple[Image, ...]:
    assert isinstance(event, Done), event
    return event.result.images


def failures(sink: PlainSink, kind: str) -> float | None:
    return sink.value("pawfect_engine_failures_total", engine="flux", kind=kind)


def begin_two(bench: LockStep, **others: Any) -> tuple[Listener, Listener]:
    """Two requests, seeds 10 and 20, whose first shared step is under way."""
    one = bench.submit(make_fill("one", seed=10, **others))
    two = bench.submit(make_fill("two", seed=20, **others))
    bench.finish()
    bench.finish()
    assert bench.call is not None
    assert (bench.call.work, bench.call.seeds) == (Work.STEP, (10, 20))
    return one, two


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
    text = TextToImageRequest(**COMMON, width=48, height=32)
    image = ImageToImageRequest(**COMMON | {"request_id": "other"}, image=np.zeros((32, 48, 3), np.uint8), strength=0.5)
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
    listener = bench.submit(TextToImageRequest(**COMMON, width=32, height=32))
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
    bench.submit(make_fill("running", seed=10, sides=((32, 32),) * 3))
    waiting = bench.submit(make_fill("waiting", seed=20, sides=((16, 16),)))
    for _ in range(3):
        bench.finish()  # encodings
    assert waiting.events == [Queued(1)]


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


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [EngineFailed("out of memory"), RuntimeError("bad graph"), OutputInvalid("none")])
@pytest.mark.parametrize("work", [Work.ENCODE, Work.STEP, Work.DECODE])
def test_a_call_that_fails_ends_its_request_and_not_the_next(bench: LockStep, error: Exception, work: Work) -> None:
    listener = bench.submit(make_fill())
    bench.finish_until(work, 0)
    bench.finish(error)
    code = "output_invalid" if isinstance(error, OutputInvalid) else "engine_failed"
    failed = listener.last()
    assert as_failed(failed) == (code, True)
    assert isinstance(failed, Failed)
    assert str(error) in failed.message
    assert failures(bench.sink, code) == 1
    following = bench.submit(make_fill())
    while bench.call is not None:
        bench.finish()
    assert len(images_of(following.last())) == 1


def test_of_a_shared_step_that_fails_only_the_culprit_ends(bench: LockStep) -> None:
    begin_two(bench)
    three = bench.submit(make_fill("three", seed=30))
    bench.finish(EngineFailed("out of memory"))
    assert bench.call is not None
    assert (bench.call.work, bench.call.seeds, bench.call.done) == (Work.STEP, (10,), (0,))
    assert bench.engine.failures_in_a_row() == 1
    bench.finish(EngineFailed("out of memory"))
    assert bench.engine.failures_in_a_row() == 2
    assert failures(bench.sink, "engine_failed") == 1
    assert three.ends() == []
    while bench.call is not None:
        bench.finish()
    assert bench.engine.failures_in_a_row() == 0
    assert [call.seeds for call in bench.model.calls[4:]] == [(20,)] * 3 + [(30,)] * 4, "each alone, from where it was"
    assert failures(bench.sink, "engine_failed") == 1


def test_after_a_shared_step_failed_the_innocent_all_end_well(bench: LockStep) -> None:
    one, two = begin_two(bench)
    bench.finish(RuntimeError("the neighbours do not fit"))
    while bench.call is not None:
        bench.finish()
    for listener in (one, two):
        assert len(images_of(listener.last())) == 1
        assert [event.step for event in listener.of(Step)] == [0, 1, 2]
    assert failures(bench.sink, "engine_failed") is None
    assert [bench.model.count(Work.STEP, seed) for seed in (10, 20)] == [3, 3], "one that failed and two that did not"


def test_an_invalid_row_leaves_its_neighbours(bench: LockStep) -> None:
    one, two = begin_two(bench)
    bench.finish([10])
    assert as_failed(one.last()) == ("output_invalid", True)
    assert bench.call is not None
    assert (bench.call.work, bench.call.seeds, bench.call.done) == (Work.STEP, (20,), (1,))
    assert bench.engine.failures_in_a_row() == 0, "the call was good"
    while bench.call is not None:
        bench.finish()
    assert (images_of(two.last())[0] == paint(bench.model.calls[1].samples[0], steps=2)).all()
    assert bench.model.count(Work.STEP, 20) == 2
    assert failures(bench.sink, "output_invalid") == 1


def test_a_request_with_two_invalid_crops_is_one_that_ended_badly(bench: LockStep) -> None:
    listener = bench.submit(make_fill(seed=10, sides=((32, 32),) * 2))
    bench.finish_until(Work.STEP, 11)
    bench.finish([10, 11])
    assert as_failed(listener.last()) == ("output_invalid", True)
    assert failures(bench.sink, "output_invalid") == 1


class Painter(FakeModel):
    """Decodes to what it is told."""

    def __init__(self, image: Callable[[SampleSpec], Image], spec: Any = FILL) -> None:
        super().__init__(spec)
        self._image = image

    def decode(self, state: Any) -> Image:
        return self._image(state.sample)


def flat(sample: SampleSpec) -> Image:
    return np.full((sample.height, sample.width, 3), 7, np.uint8)


def fill_flat(sample: SampleSpec) -> Image:
    assert sample.image is not None
    assert sample.mask is not None
    return np.where(sample.mask[..., None] > 0, np.uint8(0), sample.image)


def cut_off(sample: SampleSpec) -> Image:
    return paint(sample, 0)[:-16]


def as_floats(sample: SampleSpec) -> Any:
    return paint(sample, 0).astype(np.float32)


def make_bright() -> FillRequest:
    request = make_fill()
    crop = request.crops[0]
    bright = Crop(np.clip(crop.image, 100, 255), crop.mask)
    return FillRequest(**COMMON, crops=(bright,))


def make_of_image(image: Image) -> ImageToImageRequest:
    return ImageToImageRequest(**COMMON, image=image, strength=1.0)


@pytest.mark.parametrize("image", [flat, fill_flat, cut_off, as_floats])
def test_a_filling_that_is_no_picture_fails(image: Callable[[SampleSpec], Image]) -> None:
    sink = PlainSink()
    (end,) = run(Painter(image), make_bright(), sink=sink)
    assert as_failed(end) == ("output_invalid", True)
    assert failures(sink, "output_invalid") == 1


NOISE = paint(SampleSpec(FillRequest.task, 32, 32, None, None, 1.0, 1, 1.0, 1.0, 5), 0)


@pytest.mark.parametrize("image", [flat, cut_off, as_floats])
@pytest.mark.parametrize("request_", [TextToImageRequest(**COMMON, width=32, height=32), make_of_image(NOISE)])
def test_an_image_that_is_no_picture_fails(request_: Any, image: Callable[[SampleSpec], Image]) -> None:
    (end,) = run(Painter(image, BASE), request_)
    assert as_failed(end) == ("output_invalid", True)


def test_a_plain_wall_may_stay_one() -> None:
    wall = np.full((32, 32, 3), 7, np.uint8)
    (end,) = run(Painter(flat, BASE), make_of_image(wall))
    assert (images_of(end)[0] == 7).all()
    request = FillRequest(**COMMON, crops=(Crop(wall, make_fill().crops[0].mask),))
    (end,) = run(Painter(flat), request)
    assert (images_of(end)[0] == 7).all()


class Short(FakeModel):
    """Loses the last of several states at its first shared step."""

    def step(self, states: Any) -> Any:
        stepped = super().step(states)
        return stepped[:-1] if len(states) > 1 else stepped


def test_a_call_that_fails_as_a_whole_changes_nobody() -> None:
    bench = LockStep(model=Short())
    listeners = begin_two(bench)
    while bench.call is not None:
        bench.finish()
    for call, listener in zip(bench.model.calls, listeners, strict=False):
        (image,) = images_of(listener.last())
        assert (image == paint(call.samples[0], steps=2)).all(), "not the two steps that it was to make"
    bench.close()


# -- prompts -----------------------------------------------------------------------------------------------------------


def test_a_prompt_that_is_slow_to_encode_holds_up_nobody() -> None:
    bench = LockStep(prompts=FakePrompts(slow=["slow"]))
    slow = bench.submit(make_fill("slow", prompt="slow", seed=10, submitted_at=0))
    assert slow.events == [Queued(0)]
    quick = bench.submit(make_fill("quick", seed=20, submitted_at=1))
    while bench.call is not None:
        bench.finish()
    assert len(images_of(quick.last())) == 1
    assert slow.kinds() == ["Queued"]
    bench.prompts.finish("slow")
    bench.settle()
    assert bench.call is not None
    assert bench.call.seeds == (10,)
    bench.close()


def test_the_negative_prompt_is_waited_for() -> None:
    bench = LockStep(prompts=FakePrompts(slow=["leash"]))
    bench.submit(make_fill(negative_prompt="leash", true_cfg=4.0))
    assert bench.call is None
    bench.prompts.finish("leash")
    bench.settle()
    assert bench.call is not None
    bench.close()


@pytest.mark.parametrize("which", ["prompt", "negative_prompt"])
@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (EngineRejected("the prompt has 513 tokens"), "engine_rejected", False),
        (EngineFailed("the text encoders failed"), "engine_failed", True),
        (RuntimeError("the actor died"), "engine_failed", True),
        (None, "engine_failed", True),
    ],
)
def test_a_prompt_that_cannot_be_encoded_ends_its_request_alone(
    which: str, error: Exception | None, code: str, retryable: bool
) -> None:
    bench = LockStep(prompts=FakePrompts(slow=["bad"]))
    listener = bench.submit(make_fill("bad", seed=10, **{"negative_prompt": "leash", which: "bad"}, true_cfg=4.0))
    other = bench.submit(make_fill("other", seed=20))
    if error is None:
        bench.prompts.give_up("bad")
    else:
        bench.prompts.fail("bad", error)
    while bench.call is not None:
        bench.finish()
    assert as_failed(listener.last()) == (code, retryable)
    assert listener.kinds()[-1:] == ["Failed"]
    assert failures(bench.sink, code) == 1
    assert bench.engine.failures_in_a_row() == 0
    assert len(images_of(other.last())) == 1
    bench.close()


def test_a_request_is_queued_and_its_deadline_looked_at_while_its_prompt_is_encoded() -> None:
    """Nothing else wakes the engine: no other request, no cancellation, no embedding."""
    clock, prompts = HandClock(), FakePrompts(slow=["slow"])
    looked, listener = threading.Event(), Listener()
    engine = FluxEngine(FakeModel(), prompts, Limits(), sink=PassSink(looked.set), clock=clock)
    assert looked.wait(LONG_S)
    engine.submit(make_fill(prompt="slow", deadline_at=clock.time + 10), listener)
    try:
        wait_for(lambda: listener.events, "nobody was told that the request is queued", 2.0)
        assert listener.events == [Queued(0)]
        clock.time += 10
        assert as_failed(listener.last()) == ("deadline_exceeded", False)
    finally:
        engine.close()


def wait_for(condition: Callable[[], object], otherwise: str, limit_s: float = LONG_S) -> None:
    for _ in range(int(limit_s / 0.005)):
        if condition():
            return
        threading.Event().wait(0.005)
    raise AssertionError(otherwise)


@pytest.mark.parametrize("news", ["embedding", "cancellation"])
def test_news_that_come_while_the_engine_looks_elsewhere_are_not_slept_over(
    monkeypatch: pytest.MonkeyPatch, news: str
) -> None:
    """They come after the engine has looked at every request, and before it goes to sleep."""
    monkeypatch.setattr("serve_app.flux.engine.LOOK_S", LONG_S)
    prompts, listener = FakePrompts(slow=["slow"]), Listener()

    def bring() -> None:
        if listener.events == [Queued(0)]:
            prompts.finish("slow") if news == "embedding" else engine.cancel("job")

    engine = FluxEngine(FakeModel(), prompts, Limits(), sink=PassSink(bring))
    engine.submit(make_fill(prompt="slow"), listener)
    try:
        wait_for(listener.ends, "the engine sleeps", 2.0)
    finally:
        engine.close()


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


@pytest.mark.parametrize("when", [Queued, Step, Decoding, Done, Cancelled])
def test_a_callback_may_close_the_engine(when: type[Event]) -> None:
    """It runs in the engine's thread; the request beside it ends, too, and the thread ends without an error."""
    bench = LockStep(prompts=FakePrompts(slow=["slow"]))
    other = Listener()
    ended: list[Event] = []

    def close(event: Event) -> None:
        if isinstance(event, Done | Failed | Cancelled):
            ended.append(event)
        if isinstance(event, when):
            bench.engine.close()

    bench.engine.submit(make_fill("closing", steps=1), close)
    bench.engine.submit(make_fill("other", prompt="slow", submitted_at=1), other)
    if when is Cancelled:
        bench.engine.cancel("closing")
    bench.prompts.finish("slow")
    bench.let_go()
    assert other.last() == Cancelled()
    bench.engine._thread.join(LONG_S)
    assert not bench.engine._thread.is_alive()
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
