"""Around a real FLUX engine: a model and prompts that do what a test tells them, and a way to see every call begin."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from serve_app import metrics
from serve_app.engines.protocol import (
    Cancelled,
    Crop,
    Done,
    Event,
    Failed,
    FillRequest,
    Image,
    ImageToImageRequest,
    Request,
    Task,
    TextToImageRequest,
)
from serve_app.errors import OutputInvalid
from serve_app.flux.admission import SampleSpec
from serve_app.flux.engine import FluxEngine
from serve_app.flux.spec import SPECS, ModelSpec
from serve_app.flux.stepping import Limits, Work
from serve_app.flux.text import TextEmbedding
from serve_app.metrics import Metric, PlainSink
from tests.tokens import HandClock

LONG_S = 10.0  # a real time-out for what should come at once
GLANCE_S = 0.0002
_COMMON: dict[str, Any] = {"prompt": "grass", "steps": 2, "guidance": 30.0, "seed": 0}

FILL = SPECS["flux-fill-dev"]
BASE = SPECS["flux-dev"]


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of the model: what each sample is, how long its text and its negative text are, and how many steps it
    had made before."""

    work: Work
    samples: tuple[SampleSpec, ...]
    text_lengths: tuple[int, ...]
    negative_lengths: tuple[int | None, ...]
    done: tuple[int, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sample.seed for sample in self.samples)


Hook = Callable[[Call], Collection[int] | None]
"""Called in the engine's thread when a call begins. It may wait, raise, or name the seeds whose output is invalid."""


@dataclass(frozen=True, slots=True, eq=False)
class FakeState:
    sample: SampleSpec
    text_length: int
    negative_length: int | None
    done: int = 0


class FakeModel:
    """A `Model[FakeState]` that records its calls and asks `hook` what to do; `paint` is what it makes of a sample."""

    def __init__(self, spec: ModelSpec = FILL, hook: Hook | None = None, *, uses_accelerator: bool = False) -> None:
        self._spec = spec
        self._uses_accelerator = uses_accelerator
        self.hook = hook or (lambda call: None)
        self.calls: list[Call] = []

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    @property
    def uses_accelerator(self) -> bool:
        return self._uses_accelerator

    def encode(self, sample: SampleSpec, text: TextEmbedding, negative: TextEmbedding | None) -> FakeState:
        state = FakeState(sample, text.length, None if negative is None else negative.length)
        if self._call(Work.ENCODE, [state]):
            raise OutputInvalid("told to")
        return state

    def step(self, states: Sequence[FakeState]) -> list[FakeState | OutputInvalid]:
        invalid = self._call(Work.STEP, states)
        return [
            OutputInvalid("told to") if state.sample.seed in invalid else replace(state, done=state.done + 1)
            for state in states
        ]

    def decode(self, state: FakeState) -> Image:
        if self._call(Work.DECODE, [state]):
            raise OutputInvalid("told to")
        return paint(state.sample, state.done)

    def count(self, work: Work, seed: int) -> int:
        """Calls of a kind that had the sample of a seed."""
        return sum(call.work is work and seed in call.seeds for call in self.calls)

    def _call(self, work: Work, states: Sequence[FakeState]) -> Collection[int]:
        call = Call(
            work,
            tuple(state.sample for state in states),
            tuple(state.text_length for state in states),
            tuple(state.negative_length for state in states),
            tuple(state.done for state in states),
        )
        self.calls.append(call)
        return self.hook(call) or ()


def paint(sample: SampleSpec, steps: int) -> Image:
    """Noise that tells which sample it was made of and after how many steps."""
    return np.random.default_rng((sample.seed, steps)).integers(0, 256, (sample.height, sample.width, 3), np.uint8)


class FakePrompts:
    """A `PromptSource`. A prompt in `slow` is pending until `finish`, `fail` or `give_up`; the others come at once.
    They have as many tokens as `lengths` says, or 128."""

    def __init__(self, slow: Collection[str] = (), lengths: dict[str, int] | None = None) -> None:
        self.slow = set(slow)
        self.lengths = lengths or {}
        self.asked: list[str] = []
        self._pending: list[tuple[str, Future[TextEmbedding]]] = []

    def request(self, prompt: str) -> Future[TextEmbedding]:
        future: Future[TextEmbedding] = Future()
        self.asked.append(prompt)
        if prompt in self.slow:
            self._pending.append((prompt, future))
        else:
            future.set_result(self._embed(prompt))
        return future

    def finish(self, prompt: str) -> None:
        for future in self._take(prompt):
            future.set_result(self._embed(prompt))

    def fail(self, prompt: str, error: BaseException) -> None:
        for future in self._take(prompt):
            future.set_exception(error)

    def give_up(self, prompt: str) -> None:
        for future in self._take(prompt):
            future.cancel()

    def _take(self, prompt: str) -> list[Future[TextEmbedding]]:
        taken = [future for name, future in self._pending if name == prompt]
        self._pending = [(name, future) for name, future in self._pending if name != prompt]
        return taken

    def _embed(self, prompt: str) -> TextEmbedding:
        return TextEmbedding(torch.zeros(self.lengths.get(prompt, 128), 1), torch.zeros(1))


class Listener:
    """Collects one request's events."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.threads: set[str] = set()
        self._ended = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.threads.add(threading.current_thread().name)
        if isinstance(event, Done | Failed | Cancelled):
            self._ended.set()

    def last(self) -> Event:
        assert self._ended.wait(LONG_S), f"no end came after {self.events}"
        return self.events[-1]

    def ends(self) -> list[Event]:
        return [event for event in self.events if isinstance(event, Done | Failed | Cancelled)]

    def kinds(self) -> list[str]:
        """The names of the events, those that repeat once."""
        names = [type(event).__name__ for event in self.events]
        return [name for i, name in enumerate(names) if i == 0 or name != names[i - 1]]

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class PassSink(PlainSink):
    """Calls `on_pass` in the engine's thread once per pass of its loop: when it says how many requests run, after it
    looked at every one and before it decides what to do."""

    def __init__(self, on_pass: Callable[[], None]) -> None:
        super().__init__()
        self._on_pass = on_pass

    def record(self, metric: Metric, value: float = 1.0, /, **labels: str) -> None:
        super().record(metric, value, **labels)
        if metric is metrics.ENGINE_REQUESTS and labels["state"] == "running":
            self._on_pass()


class LockStep:
    """A FluxEngine whose every call of the model the test sees begin (`call`) and lets end (`finish`). Between two of
    these methods the engine's thread stands still, inside a call or idle, so that the test decides every order."""

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        model: FakeModel | None = None,
        prompts: FakePrompts | None = None,
        clock: HandClock | None = None,
    ) -> None:
        self.model = model or FakeModel()
        self.model.hook = self._enter
        self.prompts = prompts or FakePrompts()
        self.clock = clock or HandClock()
        self.sink = PlainSink()
        self.call: Call | None = None
        self._begun: queue.Queue[Call] = queue.Queue()
        self._outcomes: queue.Queue[Exception | Collection[int]] = queue.Queue()
        self._is_open = False
        self.engine = FluxEngine(self.model, self.prompts, limits or Limits(), sink=self.sink, clock=self.clock)

    def submit(self, request: Request) -> Listener:
        listener = Listener()
        self.engine.submit(request, listener)
        self.settle()
        return listener

    def finish(self, outcome: Exception | Collection[int] = (), *, seconds: float = 0.0) -> Call | None:
        """End the call under way after some time: well, by raising, or with no picture for the seeds given. Returns the
        next one."""
        assert self.call is not None
        self.clock.time += seconds
        self.call = None
        self._outcomes.put(outcome)
        self.settle()
        return self.call

    def finish_until(self, work: Work, seed: int) -> None:
        """End calls well until one of a kind with the sample of a seed is under way."""
        for _ in range(1000):
            assert self.call is not None
            if self.call.work is work and seed in self.call.seeds:
                return
            self.finish()
        raise AssertionError(f"{work} of {seed} did not begin")

    def pass_time(self, seconds: float) -> None:
        """Move the clock. An idle engine looks at it again at once, and not when it next would."""
        self.clock.time += seconds
        self.engine._wake()
        self.settle()

    def settle(self) -> None:
        """Return when a call is under way, or the engine sleeps and nothing has been said to wake it."""
        limit = time.monotonic() + LONG_S
        while self.call is None and not self._is_asleep():
            assert time.monotonic() < limit, "the engine's thread is stuck or dead"
            try:
                self.call = self._begun.get(timeout=GLANCE_S)
            except queue.Empty:
                continue

    def _is_asleep(self) -> bool:
        # Nothing that an engine shows its users tells this.
        changed = self.engine._changed
        with changed:
            return bool(changed._waiters) and not self.engine._has_news  # type: ignore[attr-defined]

    def let_go(self) -> None:
        """The call under way ends well, and no later one is held."""
        self.call, self._is_open = None, True
        self._outcomes.put(())

    def close(self) -> None:
        """Close the engine; the call under way ends well, after the engine was told."""
        closing = threading.Thread(target=self.engine.close)
        closing.start()
        while not self.engine._closed:  # close has no other sign that it began
            time.sleep(GLANCE_S)
        self.let_go()
        closing.join(LONG_S)
        assert not closing.is_alive()

    def _enter(self, call: Call) -> Collection[int]:
        if self._is_open:
            return ()
        self._begun.put(call)
        outcome = self._outcomes.get(timeout=LONG_S)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def make_crop(width: int = 32, height: int = 32, seed: int = 3) -> Crop:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2] = 255
    return Crop(image, mask)


def make_fill(
    request_id: str = "job",
    *,
    sides: Sequence[tuple[int, int]] = ((32, 32),),
    crops: Sequence[Crop] | None = None,
    **others: Any,
) -> FillRequest:
    """`sides`: width and height of each crop, in pixels, unless the crops are given."""
    made = tuple(make_crop(*side) for side in sides) if crops is None else tuple(crops)
    return FillRequest(**_COMMON | others, request_id=request_id, crops=made)


def make_text_to_image(request_id: str = "job", *, width: int = 32, height: int = 32, **others: Any) -> Request:
    return TextToImageRequest(**_COMMON | others, request_id=request_id, width=width, height=height)


def make_image_to_image(image: Image, request_id: str = "job", *, strength: float = 1.0, **others: Any) -> Request:
    return ImageToImageRequest(**_COMMON | others, request_id=request_id, image=image, strength=strength)


def make_spec(
    width: int = 32,
    height: int = 32,
    *,
    steps: int = 4,
    true_cfg: float = 1.0,
    strength: float = 1.0,
    seed: int = 0,
    task: Task = Task.TEXT_TO_IMAGE,
) -> SampleSpec:
    return SampleSpec(task, width, height, None, None, strength, steps, 3.5, true_cfg, seed)


# -- what came of it ------------------------------------------------------------------------------------------------


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


def wait_for(condition: Callable[[], object], otherwise: str, limit_s: float = LONG_S) -> None:
    for _ in range(int(limit_s / 0.005)):
        if condition():
            return
        threading.Event().wait(0.005)
    raise AssertionError(otherwise)
