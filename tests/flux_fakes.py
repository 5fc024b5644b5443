"""Around a FLUX engine: a model and prompts that do what a test tells them, requests, and a listener."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

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
from serve_app.flux.memory import Memory
from serve_app.flux.spec import SPECS, ModelSpec
from serve_app.flux.stepping import Work
from serve_app.flux.text import TextEmbedding

LONG_S = 10.0  # a real time-out for what should come at once
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
        self.bytes: Memory | None = None

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    @property
    def uses_accelerator(self) -> bool:
        return self._uses_accelerator

    def memory(self) -> Memory | None:
        return self.bytes

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
