"""A real FLUX engine in lock-step with a test, and what tests ask of what came of it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from serve_app import metrics
from serve_app.engines.protocol import (
    Done,
    Event,
    Failed,
    Image,
    Request,
)
from serve_app.engines.trace import Trace
from serve_app.flux.engine import FluxEngine
from serve_app.flux.stepping import Limits, Work
from serve_app.metrics import Metric, PlainSink
from tests.flux_fakes import LONG_S, Call, FakeModel, FakePrompts, Listener, make_fill
from tests.tokens import HandClock

GLANCE_S = 0.0002


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
        trace: Trace | None = None,
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
        self.engine = FluxEngine(
            self.model, self.prompts, limits or Limits(), sink=self.sink, clock=self.clock, trace=trace
        )

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
