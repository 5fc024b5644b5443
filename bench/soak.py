"""`make soak-engine`: thousands of tiny requests of random size, steps, priority and number of crops through one
engine, while requests are cancelled at random and the model fails at random.

Every request must end, once, as what happened to it allows: `lost` counts those without an end, `stuck` those that the
engine still holds at the end, `wrong` those that ended otherwise than they should (a result of the wrong size, a
failure without an injected one, a cancellation nobody asked for). `rss_kib_per_request` is the slope of the resident
set over the second half.
"""

from __future__ import annotations

import argparse
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import psutil

from bench.batching import CountingModel
from bench.dispatch import Queue, Ticket, Tiny, make_crop, make_request, open_tiny
from bench.report import print_figures
from serve_app.engines.protocol import Cancelled, Done, Failed, FillRequest
from serve_app.errors import OutOfMemory, OutputInvalid
from serve_app.flux.model import FluxModel, Latents
from serve_app.flux.stepping import Limits

REQUESTS = 2000
LIMITS = Limits(places=4, urgent_places=2, rows=4, tokens=64)
SIDES = (64, 80, 96)  # pixels
CANCEL_SHARE = 0.15
FAILING_CALLS = 0.01
"""Of the calls of the transformer: an exception, as when memory runs out. Shared, it must not end the neighbours."""
BROKEN_ROWS = 0.003
"""Of the rows: values that are not numbers."""
WAIT_S = 300.0
AHEAD = 40
"""Requests offered before the first of them has ended, so that there is a queue."""


class FailingModel(CountingModel):
    """The model, failing at random."""

    def __init__(self, model: FluxModel, seed: int) -> None:
        super().__init__(model)
        self._draw = random.Random(seed)

    def step(self, states: Sequence[Latents]) -> list[Latents | OutputInvalid]:
        if self._draw.random() < FAILING_CALLS:
            raise OutOfMemory("injected: the accelerator's memory did not suffice")
        stepped = super().step(states)
        return [
            OutputInvalid("injected: not a number") if self._draw.random() < BROKEN_ROWS else state for state in stepped
        ]


class Tally:
    """How requests ended; keeps numbers and no pictures, which would look like a leak."""

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()
        self.wrong = 0

    def take(self, ticket: Ticket, is_cancelled: bool) -> None:
        self.ends[type(ticket.event).__name__] += 1
        self.wrong += not _is_right(ticket, is_cancelled)


def measure(tiny: Tiny, requests: int = REQUESTS, seed: int = 0) -> dict[str, float]:
    draw = random.Random(seed)
    memory: list[tuple[int, float]] = []
    tally, window, cancelled = Tally(), deque[Ticket](), set[str]()
    process, start = psutil.Process(), time.monotonic()

    def finish_oldest() -> None:
        ticket = window.popleft()
        ticket.done.wait(WAIT_S)
        tally.take(ticket, ticket.request.request_id in cancelled)

    with tiny.engine(LIMITS, wrap=lambda model: FailingModel(model, seed)) as engine:
        queue = Queue(engine, LIMITS)
        for number in range(requests):
            if len(window) == AHEAD:
                finish_oldest()
            ticket = queue.offer(_draw_request(draw, number))
            window.append(ticket)
            if draw.random() < CANCEL_SHARE:
                cancelled.add(ticket.request.request_id)
                threading.Timer(draw.uniform(0, 0.5), queue.cancel, (ticket,)).start()
            if number % 20 == 0:
                memory.append((number, process.memory_info().rss / 1024))
        while window:
            finish_oldest()
        stuck = engine.held()
    return {
        "requests": float(requests),
        "lost": float(tally.ends["NoneType"]),
        "stuck": float(stuck),
        "wrong": float(tally.wrong),
        "done": float(tally.ends["Done"]),
        "failed": float(tally.ends["Failed"]),
        "cancelled": float(tally.ends["Cancelled"]),
        "rss_kib_per_request": _slope(memory[len(memory) // 2 :]),
        "rss_mib": memory[-1][1] / 1024,
        "seconds": time.monotonic() - start,
    }


def _slope(points: Sequence[tuple[int, float]]) -> float:
    numbers, values = np.array(points, np.float64).T
    return float(np.polyfit(numbers, values, 1)[0])


def _draw_request(draw: random.Random, number: int) -> FillRequest:
    crops = tuple(make_crop(draw.choice(SIDES), number) for _ in range(draw.choice((1, 1, 1, 2, 3))))
    request = make_request(f"r{number}", crops, draw.randrange(1, 7), draw.choice((0, 1, 1, 1, 2)), seed=number)
    if draw.random() < 0.1:
        request = replace(request, negative_prompt="a bad cat", true_cfg=2.0)
    return request


def _is_right(ticket: Ticket, is_cancelled: bool) -> bool:
    assert isinstance(ticket.request, FillRequest)
    match ticket.event:
        case Done(result):
            sizes = [image.shape for image in result.images]
            return sizes == [crop.image.shape for crop in ticket.request.crops]
        case Failed(_, message, retryable):
            return message.startswith("injected:") and retryable
        case Cancelled():
            return is_cancelled
    return False


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.soak")
    parser.add_argument("--requests", type=int, default=REQUESTS)
    options = parser.parse_args()
    with open_tiny() as tiny:
        result = measure(tiny, options.requests)
    print_figures(result)


if __name__ == "__main__":
    main()
