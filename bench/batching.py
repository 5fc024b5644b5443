"""What sharing steps gains, and how soon a cancellation acts, on the real engine with the tiny model.

`batch_gain` is the time of eight crops of 256 × 256 one after the other over their time when they share their steps, on
a CPU: it says that the engine shares, not what a GPU gains. `cancel_steps` is the largest number of steps a request was
given after `cancel` had returned.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Sequence

from bench.dispatch import Tiny, make_crop, make_request, open_tiny
from bench.report import print_figures
from serve_app.engines.protocol import Cancelled, Done, Event, Failed, Image, Step
from serve_app.errors import OutputInvalid
from serve_app.flux.admission import SampleSpec
from serve_app.flux.memory import Memory
from serve_app.flux.model import FluxModel, Latents
from serve_app.flux.spec import ModelSpec
from serve_app.flux.stepping import Limits
from serve_app.flux.text import TextEmbedding

CROPS = 8
SIDE = 256
STEPS = 8
REPEATS = 5
CANCELLATIONS = 30
TOGETHER = Limits(places=CROPS, rows=CROPS, tokens=CROPS * (SIDE // 16) ** 2)
APART = Limits(places=CROPS, rows=1)


def measure(tiny: Tiny) -> dict[str, float]:
    together, apart = [], []
    for _ in range(REPEATS):
        together.append(_run_all(tiny, TOGETHER))
        apart.append(_run_all(tiny, APART))
    return {
        "batch_gain": statistics.median(apart) / statistics.median(together),
        "cancel_steps": float(max(_cancel_one(tiny, number) for number in range(CANCELLATIONS))),
    }


def _run_all(tiny: Tiny, limits: Limits) -> float:
    crops = (make_crop(SIDE),)
    left = threading.Semaphore(0)

    def hear(event: Event) -> None:
        assert not isinstance(event, Failed), event
        if isinstance(event, Done):
            left.release()

    with tiny.engine(limits) as engine:
        start = time.monotonic()
        for number in range(CROPS):
            engine.submit(make_request(f"b{number}", crops, STEPS, seed=number), hear)
        for _ in range(CROPS):
            left.acquire()
        return time.monotonic() - start


class CountingModel:
    """The model, counting steps."""

    def __init__(self, model: FluxModel) -> None:
        self._model = model
        self.steps = 0

    @property
    def spec(self) -> ModelSpec:
        return self._model.spec

    @property
    def uses_accelerator(self) -> bool:
        return self._model.uses_accelerator

    def memory(self) -> Memory | None:
        return self._model.memory()

    def encode(self, sample: SampleSpec, text: TextEmbedding, negative: TextEmbedding | None) -> Latents:
        return self._model.encode(sample, text, negative)

    def step(self, states: Sequence[Latents]) -> list[Latents | OutputInvalid]:
        stepped = self._model.step(states)
        self.steps += 1
        return stepped

    def decode(self, state: Latents) -> Image:
        return self._model.decode(state)


def _cancel_one(tiny: Tiny, number: int) -> int:
    """Steps finished after a cancellation at a random moment of a request that has the engine for itself."""
    draw = random.Random(number)
    counting = CountingModel(tiny.model)
    at_step, ended = draw.randrange(1, STEPS), threading.Event()
    reached = threading.Event()

    def hear(event: Event) -> None:
        if isinstance(event, Step) and event.step == at_step:
            reached.set()
        if isinstance(event, Cancelled):
            ended.set()

    with tiny.engine(Limits(), wrap=lambda _: counting) as engine:
        engine.submit(make_request("c", (make_crop(SIDE),), STEPS * 2), hear)
        reached.wait()
        time.sleep(draw.uniform(0, 0.02))  # somewhere inside a step
        engine.cancel("c")
        before = counting.steps
        ended.wait()
        return counting.steps - before


def main() -> None:
    with open_tiny() as tiny:
        result = measure(tiny)
    print_figures(result)


if __name__ == "__main__":
    main()
