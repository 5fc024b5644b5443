"""Bringing a model up in a thread of its own, with retries, while the process already answers health checks."""

from __future__ import annotations

import enum
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from serve_app.clock import Clock, SystemClock
from serve_app.errors import EngineUnavailable, PawfectError, TransientError

log = logging.getLogger(__name__)

T = TypeVar("T")
MAX_BACKOFF_S = 30.0
POLL_S = 0.1  # how often a waiter looks at the clock: a hung load never wakes it


class Phase(enum.StrEnum):
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class LoadState:
    """`seconds` since the start while loading, else what it took to become ready or failed.

    While loading, `reason` is the last transient error, if there was one.
    """

    phase: Phase
    reason: str | None
    seconds: float


class Loader(Generic[T]):
    """Runs `load` until it succeeds, fails for good, or its time is over; what was settled first stays.

    `TransientError` is tried again after `backoff_s`, doubling to 30 s; every other exception is final. A `load` that
    hangs is reported as failed by the clock alone, and its late success is dropped. `sleep(seconds)` returns True when
    it was ended early by `close`.
    """

    def __init__(
        self,
        load: Callable[[], T],
        *,
        name: str,
        timeout_s: float,
        backoff_s: float,
        clock: Clock | None = None,
        sleep: Callable[[float], bool] | None = None,
    ) -> None:
        self._load = load
        self._name = name
        self._timeout_s = timeout_s
        self._backoff_s = backoff_s
        self._clock = clock or SystemClock()
        self._closing = threading.Event()
        self._sleep = sleep or self._closing.wait
        self._lock = threading.Lock()
        self._settled = threading.Event()
        self._started_at: float | None = None
        self._state = LoadState(Phase.LOADING, None, 0.0)
        self._result: list[T] = []  # empty or one: a model may be anything, None too
        self._thread = threading.Thread(target=self._run, name=f"load-{name}", daemon=False)

    def start(self) -> None:
        """Start the thread; a loader starts once."""
        self._started_at = self._clock.monotonic()
        self._thread.start()

    @property
    def is_started(self) -> bool:
        return self._started_at is not None

    def state(self) -> LoadState:
        with self._lock:
            if self._state.phase is not Phase.LOADING:
                return self._state
            seconds = self._seconds()
            if seconds < self._timeout_s:
                return LoadState(Phase.LOADING, self._state.reason, seconds)
            reason = f"{self._name} did not load within {self._timeout_s:g} s"
            if self._state.reason:
                reason += f"; the last error was: {self._state.reason}"
            return self._settle(Phase.FAILED, reason)

    def wait(self, timeout: float) -> T:
        """The model, waiting `timeout` seconds at most; raises `EngineUnavailable` with the reason there is none."""
        give_up_at = self._clock.monotonic() + timeout
        while True:
            state = self.state()
            left = give_up_at - self._clock.monotonic()
            if state.phase is not Phase.LOADING or left <= 0:
                return self.value
            self._settled.wait(min(left, POLL_S))

    @property
    def value(self) -> T:
        """The model; raises `EngineUnavailable` with the reason while there is none."""
        state = self.state()
        if state.phase is Phase.READY:
            return self._result[0]
        if state.phase is Phase.FAILED:
            raise EngineUnavailable(state.reason or f"{self._name} failed to load")
        raise EngineUnavailable(f"{self._name} is still loading after {state.seconds:.0f} s; try again later")

    def close(self) -> None:
        """End the retries. A `load` that is running is not interrupted, and its result is dropped."""
        self._closing.set()
        with self._lock:
            if self._state.phase is Phase.LOADING:
                self._settle(Phase.FAILED, f"{self._name} was closed while it loaded")

    def _seconds(self) -> float:
        return 0.0 if self._started_at is None else self._clock.monotonic() - self._started_at

    def _settle(self, phase: Phase, reason: str | None) -> LoadState:
        """The lock is held and the phase is loading."""
        self._state = LoadState(phase, reason, self._seconds())
        self._settled.set()
        return self._state

    def _run(self) -> None:
        pause = min(self._backoff_s, MAX_BACKOFF_S)
        while self.state().phase is Phase.LOADING:
            try:
                loaded = self._load()
            except TransientError as error:
                log.warning("%s did not load, next try in %g s: %s", self._name, pause, error.message)
                with self._lock:
                    if self._state.phase is Phase.LOADING:
                        self._state = LoadState(Phase.LOADING, error.message, 0.0)
            except Exception as error:
                log.exception("%s cannot be loaded", self._name)
                self._finish(Phase.FAILED, _sentence(error))
                return
            else:
                self._finish(Phase.READY, None, loaded)
                return
            if self._sleep(pause):
                return
            pause = min(pause * 2, MAX_BACKOFF_S)

    def _finish(self, phase: Phase, reason: str | None, *loaded: T) -> None:
        if self.state().phase is not Phase.LOADING:
            log.warning("%s ended loading after it had been given up", self._name)
            return
        with self._lock:
            if self._state.phase is Phase.LOADING:
                self._result.extend(loaded)
                self._settle(phase, reason)


def _sentence(error: Exception) -> str:
    return error.message if isinstance(error, PawfectError) else f"{type(error).__name__}: {error}"
