"""The embedded engine: one inpainting model on the CPU behind a queue ordered by urgency."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from dataclasses import dataclass, field

from serve_app.clock import Clock, SystemClock
from serve_app.engines.crops import check_crop, check_output
from serve_app.engines.migan import Inpaint, load_migan
from serve_app.engines.protocol import (
    Cancelled,
    Crop,
    Done,
    Emit,
    EngineResult,
    Event,
    Failed,
    FillRequest,
    Image,
    Queued,
    Request,
    Step,
    Task,
)
from serve_app.errors import DeadlineExceeded, EngineFailed, EngineRejected, PawfectError, TransientError

__all__ = ["DraftEngine", "Inpaint", "load_migan"]

log = logging.getLogger(__name__)

CLOSE_JOIN_S = 30.0  # a crop takes seconds; a model silent for longer hangs and is left behind


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


class DraftEngine:
    """An `engines.protocol.Engine` around a one-shot model; prompt, steps, guidance and seed have no effect on it.

    `Queued.position` counts the requests that go first. Cancellation and deadlines act between crops.
    """

    name = "draft"

    def __init__(self, inpaint: Inpaint, *, clock: Clock | None = None) -> None:
        self._inpaint = inpaint
        self._clock = clock or SystemClock()
        self._sequence = itertools.count()
        self._changed = threading.Condition()
        self._waiting: list[_Held] = []
        self._running: _Held | None = None
        self._busy_since: float | None = None
        self._failures = 0
        self._closed = False
        # A hung model must not keep the process from ending, so this thread does not either.
        self._thread = threading.Thread(target=self._work, name="draft-engine", daemon=True)
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
            self._end(held, self._serve(held))
            with self._changed:
                self._running = None

    def _attend(self) -> None:
        """End what waits in vain and tell the others their place."""
        news: list[tuple[_Held, Event]] = []
        with self._changed:
            for held in self._waiting:
                if held.cancelled:
                    news.append((held, Cancelled()))
                elif self._is_late(held):
                    news.append((held, _fail(_late())))
            self._waiting = sorted(held for held in self._waiting if not (held.cancelled or self._is_late(held)))
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
            return Done(self._fill(held))
        except _CancelRequested:
            return Cancelled()
        except PawfectError as error:
            return _fail(error)
        except Exception as error:
            log.exception("the draft engine failed on request %s", held.request.request_id)
            return _fail(EngineFailed(f"the draft engine failed: {type(error).__name__}: {error}"))

    def _fill(self, held: _Held) -> EngineResult:
        if not isinstance(held.request, FillRequest):
            raise EngineRejected(f"the draft engine does not do {held.request.task}; it does {Task.FILL}")
        crops = held.request.crops
        for crop in crops:
            check_crop(crop)
        if not crops:
            raise EngineRejected("the request has no crops; send at least one")
        self._tell(held, Step(0, len(crops)))
        images: list[Image] = []
        spent = 0.0
        for crop in crops:
            self._check_in(held)
            image, seconds = self._fill_crop(crop)
            images.append(image)
            spent += seconds
            done = len(images)
            self._tell(held, Step(done, len(crops), eta_s=spent / done * (len(crops) - done)))
            self._attend()
        return EngineResult(images=tuple(images), engine_seconds=spent, gpu_seconds=0.0)

    def _check_in(self, held: _Held) -> None:
        with self._changed:
            if held.cancelled or self._closed:
                raise _CancelRequested
        if self._is_late(held):
            raise _late()

    def _fill_crop(self, crop: Crop) -> tuple[Image, float]:
        started = self._clock.monotonic()
        with self._changed:
            self._busy_since = started
        failures = self._failures + 1
        try:
            image = self._inpaint(crop.image, crop.mask)
            failures = 0
        finally:
            with self._changed:
                self._busy_since, self._failures = None, failures
        check_output(crop, image)
        return image, self._clock.monotonic() - started

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


def _fail(error: PawfectError) -> Failed:
    return Failed(error.code, error.message, retryable=isinstance(error, TransientError))
