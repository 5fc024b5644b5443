"""What an urgent request waits for, and what the others pay for it, on the real engine with the tiny model.

Requests of one size arrive at random at 0.9 of what the engine can do; one in ten is urgent. `urgent_p95_over_unloaded`
is the 95th percentile of their times, over that of the same requests one by one on an idle engine; one step of the
transformer may come on top, because a step that runs is not interrupted. `background_p95_over_fifo` compares the 95th
percentile of the others with a run of the very same arrivals in which nobody is urgent. A step is not shared here, as
with crops of 512 × 512 and more on a GPU, where sharing gains nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import numpy as np

from bench.dispatch import Queue, Ticket, Tiny, make_crop, make_request, open_tiny
from bench.report import print_figures
from serve_app.engines.protocol import Done
from serve_app.flux.stepping import Limits

SIDE = 64  # pixels of a crop; smaller than a real one, so that hundreds of them take minutes
STEPS = 6
DEPTH = 8  # of the transformer: a decoding is then a quarter of a step, as with the real model at 512 × 512
REQUESTS = 700
URGENT_SHARE = 0.1
LOAD = 0.9
LIMITS = Limits(places=4, urgent_places=2, rows=4, tokens=(SIDE // 16) ** 2)
CALIBRATION = 40


def measure(tiny: Tiny, requests: int = REQUESTS, seed: int = 0) -> dict[str, float]:
    """Ratios, and the times behind them in milliseconds (`…_ms`)."""
    unloaded = _run_one_by_one(tiny)
    service = float(np.mean(unloaded))
    draw = random.Random(seed)
    arrivals = np.cumsum([draw.expovariate(LOAD / service) for _ in range(requests)]).tolist()
    urgent = [draw.random() < URGENT_SHARE for _ in range(requests)]
    ordered = _run_open(tiny, arrivals, [0 if each else 1 for each in urgent])
    fifo = _run_open(tiny, arrivals, [1] * requests)
    step_s = _measure_step(tiny)
    base = _p95(unloaded)
    urgent_p95 = _p95([time_s for time_s, each in zip(ordered, urgent, strict=True) if each])
    background = _p95([time_s for time_s, each in zip(ordered, urgent, strict=True) if not each])
    background_fifo = _p95([time_s for time_s, each in zip(fifo, urgent, strict=True) if not each])
    return {
        "urgent_p95_over_unloaded": urgent_p95 / base,
        "urgent_p95_less_a_step": (urgent_p95 - step_s) / base,
        "urgent_p95_fifo_over_unloaded": _p95([t for t, each in zip(fifo, urgent, strict=True) if each]) / base,
        "background_p95_over_fifo": background / background_fifo,
        "unloaded_p95_ms": base * 1000,
        "urgent_p95_ms": urgent_p95 * 1000,
        "background_p95_ms": background * 1000,
        "step_ms": step_s * 1000,
        "urgent_requests": float(sum(urgent)),
    }


def _run_one_by_one(tiny: Tiny) -> list[float]:
    crops = (make_crop(SIDE),)
    times = []
    with tiny.engine(LIMITS) as engine:
        queue = Queue(engine, LIMITS)
        for number in range(CALIBRATION + 5):
            ticket = queue.offer(make_request(f"u{number}", crops, STEPS, priority=0))
            _wait(ticket)
            times.append(ticket.latency)
    return times[5:]  # the first ones warm up


def _run_open(tiny: Tiny, arrivals: Sequence[float], priorities: Sequence[int]) -> list[float]:
    crops = (make_crop(SIDE),)
    tickets = []
    with tiny.engine(LIMITS) as engine:
        queue = Queue(engine, LIMITS)
        start = time.monotonic()
        for number, (at, priority) in enumerate(zip(arrivals, priorities, strict=True)):
            time.sleep(max(0.0, start + at - time.monotonic()))
            tickets.append(queue.offer(make_request(f"r{number}", crops, STEPS, priority)))
        for ticket in tickets:
            _wait(ticket)
    return [ticket.latency for ticket in tickets]


def _measure_step(tiny: Tiny) -> float:
    """Seconds of one step: the difference that twenty more of them make."""
    crops, seconds = (make_crop(SIDE),), []
    with tiny.engine(LIMITS) as engine:
        queue = Queue(engine, LIMITS)
        for steps in (STEPS, STEPS + 20):
            ticket = queue.offer(make_request(f"s{steps}", crops, steps))
            _wait(ticket)
            seconds.append(ticket.latency)
    return (seconds[1] - seconds[0]) / 20


def _wait(ticket: Ticket) -> None:
    ticket.done.wait()
    assert isinstance(ticket.event, Done), ticket.event


def _p95(times: Sequence[float]) -> float:
    return float(np.percentile(times, 95))


def main() -> None:
    with open_tiny(DEPTH) as tiny:
        result = measure(tiny)
    print_figures(result)


if __name__ == "__main__":
    main()
