"""Traces, as OpenTelemetry has them: made in this process, sent in batches over OTLP/HTTP by a thread of their own.

A trace goes from process to process as a W3C `traceparent` (`w3.org/TR/trace-context`): in a message's attributes or a
header, in the job, in an engine's request. The provider is our own and not the process's global one, which belongs to
whoever runs the process: Ray sets it, too. Spans say how long what took and how it ended; never what a photo shows,
what a prompt says, or who asked.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NoOpTracer, Span, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serve_app import __version__
from serve_app.engines.trace import Attributes
from serve_app.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINT_PATH = "/v1/traces"
"""Below the collector's address; opentelemetry.io/docs/specs/otlp, "OTLP/HTTP Request"."""
EXPORT_TIMEOUT_S = 5.0
"""One batch, repeats included; meanwhile spans wait in a queue of 2048, and the oldest are dropped after that."""
CLOSE_S = 3.0
"""A stopping process gives its last spans so long, and then leaves them: its jobs are more important."""

JOB_ID, ATTEMPT, OUTCOME = "pawfect.job_id", "pawfect.attempt", "pawfect.outcome"
QUALITY, OPERATION = "pawfect.quality", "pawfect.operation"
ERROR_TYPE = "error.type"
"""The `code` of one of our errors; OpenTelemetry's name for it."""

_PROPAGATOR = TraceContextTextMapPropagator()
_FIELD = "traceparent"


class Tracing:
    """The traces of one process; without a provider none are made. An `engines.trace.Trace`."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self.is_on = provider is not None
        self.tracer: Tracer = NoOpTracer() if provider is None else provider.get_tracer("pawfect", __version__)

    def record(
        self, name: str, traceparent: str | None, start: float, end: float, attributes: Attributes | None = None
    ) -> None:
        if self._provider is None or traceparent is None:
            return
        parent = read_traceparent(traceparent)
        if trace.get_current_span(parent).get_span_context().trace_flags.sampled:
            record(self.tracer, name, start, end, parent, attributes)

    def close(self) -> None:
        """Send what is left, for `CLOSE_S` at most. Blocks."""
        if self._provider is not None:
            closing = threading.Thread(target=self._provider.shutdown, daemon=True, name="close-tracing")
            closing.start()
            closing.join(CLOSE_S)


def open_tracing(settings: Settings, role: str) -> Tracing:
    """Of a process that is the `role`: ingress, editor, or the name of an engine. To be called once in a process."""
    endpoint = settings.tracing.otlp_endpoint
    if not endpoint:
        return Tracing()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    described = {"service.name": settings.service_name, "service.version": __version__, "pawfect.role": role}
    if settings.project_id:
        described["gcp.project_id"] = settings.project_id  # Google's own endpoint asks for it
    provider = TracerProvider(
        resource=Resource.create(described),
        sampler=ParentBased(TraceIdRatioBased(settings.tracing.sample_ratio)),
        shutdown_on_exit=False,  # it would wait for a collector that is not there
    )
    exporter = OTLPSpanExporter(endpoint.rstrip("/") + ENDPOINT_PATH, timeout=EXPORT_TIMEOUT_S)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider)


def read_traceparent(text: str | None) -> Context:
    """A context with the span that a `traceparent` names; an empty one for nothing, or for what is none."""
    return _PROPAGATOR.extract({_FIELD: text} if text else {}, context=Context())


def write_traceparent(span: Span) -> str | None:
    """None for a span that is in no trace."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span, Context()))
    return carrier.get(_FIELD)


def check_traceparent(text: str | None) -> str | None:
    """A `traceparent` that can be used, as it is written today; None for nothing, or for what is none."""
    return write_traceparent(trace.get_current_span(read_traceparent(text)))


def current_traceparent() -> str | None:
    """Of the span that this task works for."""
    return write_traceparent(trace.get_current_span())


def record(
    tracer: Tracer,
    name: str,
    start: float,
    end: float,
    parent: Context | None = None,
    attributes: Attributes | None = None,
) -> None:
    """A span that has ended, in seconds of the Unix clock; below the current one unless there is a `parent`."""
    tracer.start_span(name, parent, start_time=nanoseconds(start), attributes=attributes).end(nanoseconds(end))


@contextmanager
def begin(
    tracer: Tracer,
    name: str,
    parent: Context | None = None,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    start: float | None = None,
    attributes: Attributes | None = None,
) -> Iterator[Span]:
    """The current span while the block runs. An exception's text is not kept: it may quote what it is about."""
    with tracer.start_as_current_span(
        name,
        parent,
        kind=kind,
        attributes=attributes,
        start_time=None if start is None else nanoseconds(start),
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        yield span


def nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
