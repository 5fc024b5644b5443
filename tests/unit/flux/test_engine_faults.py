"""What goes wrong in the FLUX engine's model, its pictures or its prompts, and who suffers from it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from serve_app.engines.protocol import (
    Crop,
    Failed,
    FillRequest,
    Image,
    Queued,
    Step,
)
from serve_app.errors import EngineFailed, EngineRejected, OutputInvalid
from serve_app.flux.admission import SampleSpec
from serve_app.flux.engine import FluxEngine
from serve_app.flux.stepping import Limits, Work
from serve_app.metrics import PlainSink
from tests.flux_fakes import (
    BASE,
    FILL,
    LONG_S,
    FakeModel,
    FakePrompts,
    Listener,
    make_crop,
    make_fill,
    make_image_to_image,
    make_spec,
    make_text_to_image,
    paint,
)
from tests.flux_lockstep import LockStep, PassSink, as_failed, begin_two, failures, images_of, run, wait_for
from tests.tokens import HandClock


@pytest.fixture
def bench() -> Iterator[LockStep]:
    bench = LockStep()
    yield bench
    bench.close()


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


def test_an_image_that_is_no_picture_is_not_a_failed_call(bench: LockStep) -> None:
    listener = bench.submit(make_fill())
    bench.finish_until(Work.DECODE, 0)
    bench.finish([0])
    assert as_failed(listener.last()) == ("output_invalid", True)
    assert bench.engine.failures_in_a_row() == 0


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
    crop = make_crop()
    bright = Crop(np.clip(crop.image, 100, 255), crop.mask)
    return make_fill(crops=[bright])


@pytest.mark.parametrize("image", [flat, fill_flat, cut_off, as_floats])
def test_a_filling_that_is_no_picture_fails(image: Callable[[SampleSpec], Image]) -> None:
    sink = PlainSink()
    (end,) = run(Painter(image), make_bright(), sink=sink)
    assert as_failed(end) == ("output_invalid", True)
    assert failures(sink, "output_invalid") == 1


NOISE = paint(make_spec(), 0)


@pytest.mark.parametrize("image", [flat, cut_off, as_floats])
@pytest.mark.parametrize("request_", [make_text_to_image(), make_image_to_image(NOISE)])
def test_an_image_that_is_no_picture_fails(request_: Any, image: Callable[[SampleSpec], Image]) -> None:
    (end,) = run(Painter(image, BASE), request_)
    assert as_failed(end) == ("output_invalid", True)


def test_a_plain_wall_may_stay_one() -> None:
    wall = np.full((32, 32, 3), 7, np.uint8)
    (end,) = run(Painter(flat, BASE), make_image_to_image(wall))
    assert (images_of(end)[0] == 7).all()
    request = make_fill(crops=[Crop(wall, make_crop().mask)])
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
        (asyncio.CancelledError(), "engine_failed", True),
        (None, "engine_failed", True),
    ],
)
def test_a_prompt_that_cannot_be_encoded_ends_its_request_alone(
    which: str, error: BaseException | None, code: str, retryable: bool
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


def test_a_step_of_which_nothing_is_a_number_counts_as_failed(bench: LockStep) -> None:
    """An accelerator that has gone bad may give nothing else."""
    bench.submit(make_fill(seed=10))
    bench.finish_until(Work.STEP, 10)
    bench.finish([10])
    assert failures(bench.sink, "output_invalid") == 1
    assert bench.engine.failures_in_a_row() == 1


def test_a_defect_of_the_engine_ends_what_it_holds_and_makes_it_ill() -> None:
    """A sink that raises stands for whatever nobody thought of."""
    broken = threading.Event()

    def fail() -> None:
        if broken.is_set():
            raise ZeroDivisionError("nobody thought of it")

    prompts = FakePrompts(slow=["slow"])
    engine = FluxEngine(FakeModel(), prompts, Limits(), sink=PassSink(fail))
    held, late = Listener(), Listener()
    engine.submit(make_fill("held", prompt="slow"), held)
    broken.set()
    engine.cancel("held-by-nobody")
    engine.submit(make_fill("second", prompt="slow"), Listener())  # wakes it
    wait_for(lambda: engine.failures_in_a_row() > 1000, "the defect was not noticed")
    broken.clear()
    wait_for(held.ends, "the request was lost")
    engine.submit(make_fill("late"), late)
    assert [type(event).__name__ for event in (held.last(), late.last())] == ["Cancelled", "Cancelled"]
    engine.close()
