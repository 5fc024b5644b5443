"""The FLUX engine: one thread that does one tick after the other and, between two, lets requests join and leave."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from serve_app.clock import Clock, SystemClock
from serve_app.engines.protocol import Cancelled, Done, Emit, EngineResult, Event, Failed, Request
from serve_app.engines.trace import Trace, Untraced
from serve_app.errors import EngineFailed, OutOfMemory, PawfectError, TransientError
from serve_app.flux.admission import make_samples
from serve_app.flux.calls import call
from serve_app.flux.engine_metrics import EngineMetrics
from serve_app.flux.engine_spans import EngineSpans, name_members
from serve_app.flux.estimates import Estimates
from serve_app.flux.held import Held
from serve_app.flux.model import Model
from serve_app.flux.stepping import Limits, Stepper, Tick, Work
from serve_app.flux.text import TextEmbedding
from serve_app.metrics import Sink
from serve_app.telemetry import log_context

log = logging.getLogger(__name__)

DEFECT = 1_000_000
"""Failures in a row that a dead thread counts as: more than anybody puts up with."""
CLOSE_JOIN_S = 30.0  # a step takes seconds; a model silent for longer hangs and is left behind
LOOK_S = 0.25
"""How often deadlines are looked at while nothing can be done, because the prompts held are being encoded."""
IDLE_S = 5.0
"""How often an engine without work says so: Ray forgets a gauge that is not set again within 20 s."""


class PromptSource(Protocol):
    def request(self, prompt: str) -> Future[TextEmbedding]:
        """Returns at once; the embedding, or why there is none, comes later."""


class FluxEngine:
    """An `engines.protocol.Engine`; `stepping` says who is worked on when.

    Cancellation, deadlines and urgent requests act between two ticks, that is within one step of the transformer.
    """

    def __init__(
        self,
        model: Model[Any],
        prompts: PromptSource,
        limits: Limits,
        *,
        sink: Sink,
        clock: Clock | None = None,
        name: str = "flux",
        trace: Trace | None = None,
    ) -> None:
        self._model = model
        self._prompts = prompts
        self._stepper = Stepper(limits)
        self._estimates = Estimates()
        self._metrics = EngineMetrics(sink, name)
        self._clock = clock or SystemClock()
        self._spans = EngineSpans(trace or Untraced(), self._clock, name)
        self._name = name
        self._changed = threading.Condition()
        self._held: dict[str, Held] = {}
        self._busy_since: float | None = None
        self._failures = 0
        self._has_news = False
        self._closed = False
        # A hung model must not keep the process from ending, so this thread does not either.
        self._thread = threading.Thread(target=self._work_safely, name=f"{name}-engine", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        return self._name

    def submit(self, request: Request, emit: Emit) -> None:
        held = Held(request, emit)
        try:
            held.specs = make_samples(request, self._model.spec)
            with self._changed:
                is_open = not self._closed
                if is_open:
                    self._stepper.admit(request.request_id, request.priority, request.submitted_at, held.specs)
                    self._held[request.request_id] = held
                    self._wake()
        except PawfectError as error:
            held.end(self._fail(error))
            return
        if not is_open:
            held.end(Cancelled())
            return
        self._ask_for_text(held)

    def cancel(self, request_id: str) -> None:
        with self._changed:
            if request_id in self._held:
                self._held[request_id].is_cancelled = True
                self._wake()

    def busy_seconds(self) -> float:
        with self._changed:
            return 0.0 if self._busy_since is None else self._clock.monotonic() - self._busy_since

    def failures_in_a_row(self) -> int:
        with self._changed:
            return self._failures

    def held(self) -> int:
        """Requests between `submit` and their last event."""
        with self._changed:
            return len(self._held)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._wake()
        if threading.current_thread() is not self._thread:  # else, in somebody's callback, it ends when that returns
            self._thread.join(CLOSE_JOIN_S)
            self._end_all()

    def _ask_for_text(self, held: Held) -> None:
        request = held.request
        prompts = [request.prompt]
        if request.negative_prompt is not None and request.true_cfg > 1:
            prompts.append(request.negative_prompt)
        asked_at = self._spans.now()
        held.texts = tuple(self._prompts.request(prompt) for prompt in prompts)
        for text in held.texts:
            text.add_done_callback(lambda _: self._take_text(held, asked_at))

    def _take_text(self, held: Held, asked_at: float) -> None:
        self._spans.record_prompt(held, asked_at)
        self._wake()

    # -- the thread --------------------------------------------------------------------------------------------------

    def _work_safely(self) -> None:
        """A defect must not leave an engine that takes requests and answers none: it ends them, and says it is ill."""
        try:
            self._work()
        except Exception:
            log.exception("defect in the %s engine; its replica has to be replaced", self._name)
            with self._changed:
                self._closed = True
                self._failures = DEFECT
            self._leave_all()
        else:
            self._end_all()

    def _work(self) -> None:
        while not self._closed:
            with self._changed:
                self._has_news = False
            for held in self._look():
                self._attend(held)
            self._tell()
            with self._changed:
                if self._has_news:  # somebody came or was cancelled meanwhile, which may change what is next
                    continue
                tick = self._stepper.next()
                if tick is None:
                    self._changed.wait(LOOK_S if self._held else IDLE_S)
                    continue
                members = [self._held[sample.request_id] for sample in tick.samples]
            with log_context(**name_members(members)):
                self._run(tick, members)

    def _wake(self) -> None:
        with self._changed:
            self._has_news = True
            self._changed.notify()

    def _look(self) -> list[Held]:
        """The requests held, the first to be worked on first."""
        with self._changed:
            return [self._held[request_id] for request_id in self._stepper.order()]

    def _attend(self, held: Held) -> None:
        """End a request that is cancelled or late; let one in whose prompt is encoded."""
        if held.has_ended:  # `close` gave up waiting for somebody's callback
            return
        if held.is_cancelled:
            self._leave(held, Cancelled())
            return
        try:
            held.check_deadline(self._clock.now())
            if not held.is_eligible and held.has_text:
                length = held.embeddings()[0].length
                with self._changed:
                    self._stepper.begin(held.request.request_id, length)
                held.is_eligible = True
        except PawfectError as error:
            self._leave(held, self._fail(error))

    def _tell(self) -> None:
        """Tell every request how it stands."""
        everybody = self._look()
        with self._changed:
            samples = [self._stepper.samples(held.request.request_id) for held in everybody]
        times = self._estimates.until_done(samples)
        for position, (held, eta_s) in enumerate(zip(everybody, times, strict=True)):
            held.tell(position, eta_s, self._clock.monotonic())
        self._metrics.record_requests(everybody)
        self._metrics.record_memory(self._clock.monotonic(), self._model.memory)

    def _run(self, tick: Tick, members: Sequence[Held]) -> None:
        started, started_at = self._clock.monotonic(), self._spans.now()
        for held in members:
            held.tell_begun(started, tick.work)
        with self._changed:
            self._busy_since = started
        try:
            problems = call(self._model, tick, members)
            failure = None
        except EngineFailed as error:
            problems, failure = [error], error
            if isinstance(error, OutOfMemory):
                self._metrics.record_out_of_memory()
        seconds = self._clock.monotonic() - started
        # An accelerator that has gone bad may also give nothing but values that are not numbers.
        has_failed = failure is not None or (tick.work is Work.STEP and None not in problems)
        with self._changed:
            self._busy_since = None
            self._failures = self._failures + 1 if has_failed else 0
        self._metrics.record_tick(tick, seconds)
        self._spans.record_tick(tick, members, started_at, seconds)
        _charge(tick, members, seconds)
        if failure is None:
            self._estimates.record(tick, seconds)
        elif len(members) > 1:
            log.warning("a step of %d samples failed, each goes on alone: %s", len(members), failure)
            with self._changed:
                self._stepper.isolate(tick)
            return
        self._settle(tick, members, problems)

    def _settle(self, tick: Tick, members: Sequence[Held], problems: Sequence[PawfectError | None]) -> None:
        for held, problem in zip(members, problems, strict=True):
            if problem is not None and not held.has_ended:
                self._leave(held, self._fail(problem))
        for sample, held in zip(tick.samples, members, strict=True):
            if held.has_ended:
                continue
            with self._changed:
                self._stepper.advance(sample)
                is_finished = not self._stepper.samples(sample.request_id)
            if tick.work is Work.STEP:
                held.count_step()
            if is_finished:
                self._leave(held, Done(self._collect(held)))

    def _collect(self, held: Held) -> EngineResult:
        images = tuple(held.images[index] for index in range(len(held.specs)))
        return EngineResult(images, held.seconds, held.seconds if self._model.uses_accelerator else 0.0)

    def _end_all(self) -> None:
        self._leave_all()
        self._metrics.record_requests(())

    def _leave_all(self) -> None:
        for held in self._look():
            self._leave(held, Cancelled())

    def _leave(self, held: Held, event: Event) -> None:
        with self._changed:
            if self._held.get(held.request.request_id) is held:
                del self._held[held.request.request_id]
                self._stepper.remove(held.request.request_id)
        held.end(event)

    def _fail(self, error: PawfectError) -> Failed:
        self._metrics.record_failure(error.code)
        return Failed(error.code, error.message, retryable=isinstance(error, TransientError))


def _charge(tick: Tick, members: Sequence[Held], seconds: float) -> None:
    """A tick's time is shared out by image tokens, so that what requests are charged adds up to what was spent."""
    tokens = sum(sample.tokens for sample in tick.samples)
    for sample, held in zip(tick.samples, members, strict=True):
        held.seconds += seconds * sample.tokens / tokens
