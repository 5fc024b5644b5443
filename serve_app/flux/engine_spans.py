"""What a FLUX engine says of the time it spends on a request: its prompts, and its part in every tick."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serve_app.clock import Clock
from serve_app.engines.protocol import find_job
from serve_app.engines.trace import Attributes, Trace
from serve_app.flux.held import Held
from serve_app.flux.stepping import Sample, Tick, Work

ENGINE = "pawfect.engine"


class EngineSpans:
    def __init__(self, trace: Trace, clock: Clock, engine: str) -> None:
        self._trace = trace
        self._clock = clock
        self._engine = engine

    def now(self) -> float:
        return self._clock.now()

    def record_prompt(self, held: Held, asked_at: float) -> None:
        """An embedding has come, or the word that none will."""
        self._record("prompt", held, asked_at, self._clock.now(), {ENGINE: self._engine})

    def record_tick(self, tick: Tick, members: Sequence[Held], started_at: float, seconds: float) -> None:
        """A span for each sample, below its request; before the samples go on to their next work."""
        rows = sum(sample.spec.rows for sample in tick.samples)
        for sample, held in zip(tick.samples, members, strict=True):
            if held.request.traceparent is not None:
                attributes = self._describe(tick.work, sample, rows)
                self._record(str(tick.work), held, started_at, started_at + seconds, attributes)

    def _record(self, name: str, held: Held, start: float, end: float, attributes: Attributes) -> None:
        self._trace.record(name, held.request.traceparent, start, end, attributes)

    def _describe(self, work: Work, sample: Sample, rows: int) -> Attributes:
        common: Attributes = {ENGINE: self._engine, "pawfect.crop": sample.index}
        if work is not Work.STEP:
            return common
        steps = {"pawfect.step": sample.done + 1, "pawfect.steps": sample.spec.steps_to_run}
        return {**common, **steps, "pawfect.batch_rows": rows}


def name_members(members: Sequence[Held]) -> dict[str, Any]:
    """Fields for the lines logged while these are worked on; the trace only where it is one request's."""
    jobs = sorted({find_job(held.request) for held in members})
    if len(jobs) > 1:
        return {"jobs": jobs}
    return {"job": jobs[0], "traceparent": members[0].request.traceparent}
