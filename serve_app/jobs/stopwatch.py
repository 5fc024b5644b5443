"""The stages of a run: how long each takes, and a span for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.trace import Span, Tracer

from serve_app import tracing
from serve_app.clock import Clock, Laps
from serve_app.errors import PawfectError
from serve_app.jobs.model import Stage


class Stopwatch:
    """Seconds per stage, and a span for each; a stage entered twice adds up."""

    def __init__(self, clock: Clock, tracer: Tracer) -> None:
        self._clock = clock
        self._tracer = tracer
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, stage: Stage) -> Iterator[Span]:
        start = self._clock.monotonic()
        with tracing.begin(self._tracer, str(stage)) as span:
            try:
                yield span
            except PawfectError as error:
                span.set_attribute(tracing.ERROR_TYPE, error.code)
                raise
            finally:
                self.add(stage, self._clock.monotonic() - start)

    @contextmanager
    def listen(self) -> Iterator[Laps]:
        """To work in another thread, which says itself what it does when."""
        laps = Laps()
        try:
            yield laps
        finally:
            for lap in laps:
                self.add(lap.stage, lap.end - lap.start)
                error = {} if lap.error is None else {tracing.ERROR_TYPE: name_error(lap.error)}
                tracing.record(self._tracer, lap.stage, lap.start, lap.end, attributes=error)

    def add(self, stage: str, seconds: float) -> None:
        self.seconds[str(stage)] = self.seconds.get(str(stage), 0.0) + seconds


def name_error(kind: type[BaseException]) -> str:
    """The stable code of an error of ours, the name of another."""
    return kind.code if issubclass(kind, PawfectError) else kind.__name__
