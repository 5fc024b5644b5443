"""An engine that does one request at a time, in a thread of its own, behind a queue ordered by urgency."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from serve_app.clock import Clock, SystemClock
from serve_app.engines.protocol import (
    Cancelled,
    Done,
    Emit,
    EngineResult,
    Event,
    Failed,
    Queued,
    Request,
    Step,
    find_job,
)
from serve_app.engines.trace import Trace, Untraced
from serve_app.errors import (
    DeadlineExceeded,
    EngineFailed,
    HeadshotRejected,
    PawfectError,
    PermanentError,
    TransientError,
)
from serve_app.telemetry import log_context

log = logging.getLogger(__name__)

CLOSE_JOIN_S = 30.0  # a piece of work takes seconds; a model silent for longer hangs and is left behind


@dataclass(order=True)
class _Held:
    """A request between submit and its last event; ordered by urgency."""

    priority: int
    submitted_at: float
    sequence: int
    request: Request = field(compare=False)
    emit: Emit = field(compare=False)
    position: int = field(default=-1, compare=False)
    cancelled: bool = field(default=False, compare=False)
    ended: bool = field(default=False, compare=False)


class _CancelRequested(Exception):
    pass


class Turn:
    """A request whose turn it is, as the work on it sees it."""

    def __init__(self, engine: SerialEngine, held: _Held) -> None:
        self._engine = engine
        self._held = held

    @property
    def request(self) -> Request:
        return self._held.request

    def check_in(self) -> None:
        """To be called between pieces of work; raises what ends a request that is not wanted any more, or too late."""
        self._engine._check_in(self._held)

    def tell(self, step: Step) -> None:
        """Report progress; those that wait hear of their places, too."""
        self._engine._tell(self._held, step)
        self._engine._attend()

    @contextmanager
    def piece(self, name: str, *, of_model: bool = True) -> Iterator[None]:
        """Around each piece of work that cannot be interrupted, for the engine's health and the request's trace. One
        that is not `of_model` may hang as well, but its success or failure says nothing of the model."""
        with self._engine._tracing(self._held, name), self._engine._working(of_model=of_model):
            yield


Perform = Callable[[Turn], EngineResult]
"""The work on one request, in pieces. What it raises ends the request: a PawfectError as what it is, all else as a
defect."""


class SerialEngine:
    """An `engines.protocol.Engine`. `Queued.position` counts the requests that go first. Cancellation and deadlines act
    between pieces of work."""

    def __init__(self, name: str, perform: Perform, *, clock: Clock | None = None, trace: Trace | None = None) -> None:
        self.name = name
        self._trace = trace or Untraced()
        self._perform = perform
        self._clock = clock or SystemClock()
        self._sequence = itertools.count()
        self._changed = threading.Condition()
        self._waiting: list[_Held] = []
        self._running: _Held | None = None
        self._busy_since: float | None = None
        self._failures = 0
        self._closed = False
        # A hung model must not keep the process from ending, so this thread does not either.
        self._thread = threading.Thread(target=self._work, name=f"{name}-engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request, emit: Emit) -> None:
        held = _Held(request.priority, request.submitted_at, next(self._sequence), request, emit)
        with self._changed:
            closed = self._closed
            if not closed:
                heapq.heappush(self._waiting, held)
                self._changed.notify()
        if closed:
            self._end(held, Cancelled())

    def cancel(self, request_id: str) -> None:
        with self._changed:
            for held in (*self._waiting, *([self._running] if self._running else [])):
                if held.request.request_id == request_id:
                    held.cancelled = True
            self._changed.notify()

    def busy_seconds(self) -> float:
        with self._changed:
            return 0.0 if self._busy_since is None else self._clock.monotonic() - self._busy_since

    def failures_in_a_row(self) -> int:
        with self._changed:
            return self._failures

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_JOIN_S)
        with self._changed:
            left = [*self._waiting, *([self._running] if self._running else [])]
            self._waiting.clear()
        for held in left:
            self._end(held, Cancelled())

    def _work(self) -> None:
        while True:
            self._attend()
            with self._changed:
                if self._closed:
                    return
                if not self._waiting:
                    self._changed.wait()
                    continue
                held = self._running = heapq.heappop(self._waiting)
            with log_context(held.request.traceparent, job=find_job(held.request)):
                self._end(held, self._serve(held))
            with self._changed:
                self._running = None

    def _attend(self) -> None:
        """End what waits in vain and tell the others their place."""
        news: list[tuple[_Held, Event]] = []
        with self._changed:
            kept = []
            for held in self._waiting:
                if held.cancelled:
                    news.append((held, Cancelled()))
                elif self._is_late(held):
                    news.append((held, fail(_late())))
                else:
                    kept.append(held)
            self._waiting = sorted(kept)
            for position, held in enumerate(self._waiting, start=0 if self._running is None else 1):
                if held.position != position:
                    held.position = position
                    news.append((held, Queued(position)))
        for held, event in news:
            if isinstance(event, Queued):
                self._tell(held, event)
            else:
                self._end(held, event)

    def _serve(self, held: _Held) -> Event:
        try:
            return Done(self._perform(Turn(self, held)))
        except _CancelRequested:
            return Cancelled()
        except PawfectError as error:
            return fail(error)
        except Exception as error:
            log.exception("the %s engine failed on request %s", self.name, held.request.request_id)
            return fail(EngineFailed(f"the {self.name} engine failed: {type(error).__name__}: {error}"))

    def _check_in(self, held: _Held) -> None:
        with self._changed:
            if held.cancelled or self._closed:
                raise _CancelRequested
        if self._is_late(held):
            raise _late()

    @contextmanager
    def _tracing(self, held: _Held, name: str) -> Iterator[None]:
        start, moment = self._clock.now(), self._clock.monotonic()
        try:
            yield
        finally:
            end = start + self._clock.monotonic() - moment
            self._trace.record(name, held.request.traceparent, start, end, {"pawfect.engine": self.name})

    @contextmanager
    def _working(self, *, of_model: bool) -> Iterator[None]:
        with self._changed:
            self._busy_since = self._clock.monotonic()
        failures = self._failures + 1
        try:
            yield
            failures = 0
        except PermanentError:  # the request's fault, not the model's
            failures = self._failures
            raise
        finally:
            with self._changed:
                self._busy_since, self._failures = None, failures if of_model else self._failures

    def _is_late(self, held: _Held) -> bool:
        return held.request.deadline_at is not None and self._clock.now() >= held.request.deadline_at

    def _end(self, held: _Held, event: Event) -> None:
        """Emit the last event, once: `close` and the worker may both come to the end of a request."""
        with self._changed:
            if held.ended:
                return
            held.ended = True
        self._emit(held, event)

    def _tell(self, held: _Held, event: Event) -> None:
        with self._changed:
            ended = held.ended
        if not ended:
            self._emit(held, event)

    def _emit(self, held: _Held, event: Event) -> None:
        try:
            held.emit(event)
        except Exception:  # somebody else's callback must not end the thread everybody depends on
            log.exception("request %s did not take the event %s", held.request.request_id, type(event).__name__)


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the job's deadline passed before it was finished; send it again with more time")


def fail(error: PawfectError) -> Failed:
    """An error as the event that ends a request."""
    details = error.quality if isinstance(error, HeadshotRejected) else None
    return Failed(error.code, error.message, retryable=isinstance(error, TransientError), details=details)
