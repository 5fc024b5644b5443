"""The same question as `bench.traffic`, answered without noise: the engine's own `Stepper` in virtual time.

A tick takes what its TFLOP at true size take (512 × 512 pixels, 128 text tokens), so a step is the longest of them as
on a GPU, and tens of thousands of requests take seconds. There is no thread, no model and no clock of the machine:
what is measured is the policy.

Urgent requests meet one another: at this load one in eleven finds another being worked on, so that even with no other
traffic the 95th percentile is about 1.5 times a request's own time (M/D/1). `…_over_urgent_only` is what the others
add.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence

import numpy as np

from bench.flops import transformer_tflop, vae_decode_tflop, vae_encode_tflop
from bench.report import print_figures
from serve_app.engines.protocol import Task
from serve_app.flux.admission import SampleSpec
from serve_app.flux.stepping import Limits, Stepper, Work

SIDE, STEPS, TEXT_TOKENS = 512, 28, 128
TFLOP_PER_S = 40.0
"""Of an L4 in bfloat16, about a third of its peak; no published figure. It sets the scale on which `aging_s` acts."""
REQUESTS = 100_000  # with a fifth of them the 95th percentile still moves by 0.04 from seed to seed
URGENT_SHARE = 0.1
LOAD = 0.9
LIMITS = Limits()
SPEC = SampleSpec(Task.FILL, SIDE, SIDE, None, None, 1.0, STEPS, 30.0, 1.0, 0)


def measure(requests: int = REQUESTS, seed: int = 0) -> dict[str, float]:
    costs = {
        Work.ENCODE: vae_encode_tflop(SIDE, SIDE),
        Work.STEP: transformer_tflop(SIDE, SIDE, TEXT_TOKENS),
        Work.DECODE: vae_decode_tflop(SIDE, SIDE),
    }
    costs = {work: tflop / TFLOP_PER_S for work, tflop in costs.items()}
    service = costs[Work.ENCODE] + STEPS * costs[Work.STEP] + costs[Work.DECODE]
    draw = random.Random(seed)
    arrivals = np.cumsum([draw.expovariate(LOAD / service) for _ in range(requests)]).tolist()
    urgent = np.array([draw.random() < URGENT_SHARE for _ in range(requests)])
    ordered = simulate(arrivals, [0 if each else 1 for each in urgent], costs)
    fifo = simulate(arrivals, [1] * requests, costs)
    undisturbed = simulate([at for at, each in zip(arrivals, urgent, strict=True) if each], [0] * sum(urgent), costs)
    urgent_p95, background = np.percentile(ordered[urgent], 95), np.percentile(ordered[~urgent], 95)
    return {
        "simulated_urgent_p95_over_unloaded": float(urgent_p95 / service),
        "simulated_urgent_p95_less_a_step": float((urgent_p95 - costs[Work.STEP]) / service),
        "simulated_urgent_p95_over_urgent_only": float(urgent_p95 / np.percentile(undisturbed, 95)),
        "simulated_urgent_p95_fifo_over_unloaded": float(np.percentile(fifo[urgent], 95) / service),
        "simulated_background_p95_over_fifo": float(background / np.percentile(fifo[~urgent], 95)),
    }


def simulate(arrivals: Sequence[float], priorities: Sequence[int], costs: dict[Work, float]) -> np.ndarray:
    """Seconds in the system of each request, `costs` being those of a tick; before the engine stands a queue by
    (priority, age), as the job store is."""
    stepper, now = Stepper(LIMITS), 0.0
    coming, times = deque(range(len(arrivals))), np.zeros(len(arrivals))
    waiting: dict[int, deque[int]] = {0: deque(), 1: deque()}
    inside = {0: 0, 1: 0}
    while coming or any(waiting.values()) or any(inside.values()):
        while coming and arrivals[coming[0]] <= now:
            number = coming.popleft()
            waiting[priorities[number]].append(number)
        for priority in (0, 1):
            while waiting[priority] and _has_room(inside, priority):
                number = waiting[priority].popleft()
                stepper.admit(str(number), priority, arrivals[number], (SPEC,))
                stepper.begin(str(number), TEXT_TOKENS)
                inside[priority] += 1
        tick = stepper.next()
        if tick is None:
            now = arrivals[coming[0]]
            continue
        now += costs[tick.work] * len(tick.samples)
        for sample in tick.samples:
            stepper.advance(sample)
            if not stepper.samples(sample.request_id):
                stepper.remove(sample.request_id)
                number = int(sample.request_id)
                times[number] = now - arrivals[number]
                inside[priorities[number]] -= 1
    return times


def _has_room(inside: dict[int, int], priority: int) -> bool:
    if priority == 0:
        return sum(inside.values()) < LIMITS.places + LIMITS.urgent_places
    return sum(inside.values()) - min(inside[0], LIMITS.urgent_places) < LIMITS.places


def main() -> None:
    result = measure()
    print_figures(result)


if __name__ == "__main__":
    main()
