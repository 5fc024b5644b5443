"""The spans of one run of a job, around those of its stages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.trace import SpanKind, StatusCode, Tracer, get_current_span

from serve_app import tracing
from serve_app.engines.trace import Attributes
from serve_app.errors import PawfectError
from serve_app.jobs.model import Job
from serve_app.telemetry import log_context

SETTLED = ("completed", "cancelled", "released", "postponed", "lost")
"""Results of a run that are nobody's error."""


@contextmanager
def trace_run(tracer: Tracer, job: Job) -> Iterator[None]:
    """The span "job" of a claimed job, from its claim on; lines logged inside, and in tasks begun inside, carry both
    ids. The first run has the time in the queue before it; where a later one's began is not known any more."""
    parent = tracing.read_traceparent(job.traceparent)
    claimed_at = job.claimed_at or job.created_at
    attributes: Attributes = {
        tracing.JOB_ID: job.id,
        tracing.ATTEMPT: job.attempts,
        tracing.QUALITY: job.parameters.quality,
        tracing.OPERATION: str(job.operation),
    }
    if job.attempts == 1 and claimed_at >= job.created_at:
        tracing.record(tracer, "queue", job.created_at, claimed_at, parent, {tracing.JOB_ID: job.id})
    with (
        tracing.begin(tracer, "job", parent, kind=SpanKind.CONSUMER, start=claimed_at, attributes=attributes) as span,
        log_context(tracing.write_traceparent(span), job=job.id, attempt=job.attempts),
    ):
        yield


def note_error(error: PawfectError) -> None:
    """What this run ended with; its text stays with the job."""
    get_current_span().set_attribute(tracing.ERROR_TYPE, error.code)


def note_result(result: str, job: Job | None) -> None:
    """How this run ended, as the attempts are counted; `job` as it was written, if it was."""
    span = get_current_span()
    span.set_attribute(tracing.OUTCOME, result)
    if job is not None and job.error_code is not None:
        span.set_attribute(tracing.ERROR_TYPE, job.error_code)
    if result not in SETTLED:
        span.set_status(StatusCode.ERROR)
