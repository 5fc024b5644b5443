"""A span for each request for work, in the trace that it comes with; what is logged meanwhile carries both ids."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from time import time

from fastapi import Request
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, StatusCode, get_current_span
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingress.auth import HEADSHOT_PUSH_PATH
from ingress.headshot_schemas import PATH as HEADSHOT_PATH
from ingress.job_schemas import PATH as JOBS_PATH
from serve_app import tracing
from serve_app.jobs.model import Job
from serve_app.telemetry import add_log_fields, log_context
from serve_app.tracing import Tracing

HEADER = "traceparent"
ATTRIBUTES = (HEADER, "googclient_traceparent")
"""Of a message, the first that is there counts: W3C's own name, and what Google's client libraries write
(`cloud.google.com/pubsub/docs/open-telemetry-tracing`)."""

PUSH_PATHS = ("/inpaint", HEADSHOT_PUSH_PATH)
WORK = (*PUSH_PATHS, HEADSHOT_PATH, JOBS_PATH, "/v1/images/", "/v1/users/")
"""Paths, or their beginnings, below which work is asked for. Probes, files and lists of models make no spans."""
LOOKING = ("GET", "HEAD", "OPTIONS")
"""Whoever only looks, and does it every second, gets a span in a trace of his own, and none without."""

_KEY = "pawfect.request_span"


class RequestSpans:
    """Goes around the whole application, so that its answer to a defect is seen, too."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(WORK):
            await self._app(scope, receive, send)
            return
        parent = tracing.check_traceparent(Headers(scope=scope).get(HEADER))
        if scope["method"] in LOOKING and parent is None:
            await self._app(scope, receive, send)
            return
        with RequestSpan(self._tracing, scope, parent) as span:
            scope[_KEY] = span
            if scope["path"] not in PUSH_PATHS:  # a push says in its body which trace it belongs to
                span.begin()

            async def note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.answer(message["status"])
                await send(message)

            await self._app(scope, receive, note)


class RequestSpan:
    """From the request's first byte, whenever `begin` is called, to its end. It must be called in the task that the
    request is served by."""

    def __init__(self, tracing: Tracing, scope: Scope, parent: str | None) -> None:
        self._tracing = tracing
        self._scope = scope
        self._parent = parent
        self._started_at = time()
        self._open = ExitStack()
        self._span: Span | None = None

    def __enter__(self) -> RequestSpan:
        return self

    def __exit__(self, *error: object) -> None:
        self._name()  # also of one whose caller has gone before there was an answer
        self._open.close()

    def begin(self, parent: str | None = None) -> None:
        """`parent` wins over the header's."""
        if self._span is not None:
            return
        parent = parent or self._parent
        if not self._tracing.is_on:
            self._span = INVALID_SPAN
            self._open.enter_context(log_context(parent))  # lines are found by the caller's trace all the same
            return
        begun = tracing.begin(
            self._tracing.tracer,
            self._scope["method"],
            tracing.read_traceparent(parent),
            kind=SpanKind.SERVER,
            start=self._started_at,
            attributes={"http.request.method": self._scope["method"]},
        )
        self._span = self._open.enter_context(begun)
        self._open.enter_context(log_context(tracing.write_traceparent(self._span)))

    def answer(self, status: int) -> None:
        self.begin()
        assert self._span is not None
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._span.set_status(StatusCode.ERROR)

    def _name(self) -> None:
        """By the route, which is known once the request has been looked at."""
        if self._span is not None and (route := getattr(self._scope.get("route"), "path", None)) is not None:
            self._span.set_attribute("http.route", route)
            self._span.update_name(f"{self._scope['method']} {route}")


def continue_trace(request: Request, attributes: Mapping[str, str]) -> None:
    """The request brings a message with these attributes, whose trace it belongs to."""
    span: RequestSpan | None = request.scope.get(_KEY)
    if span is not None:
        found = (tracing.check_traceparent(attributes.get(name)) for name in ATTRIBUTES)
        span.begin(next((parent for parent in found if parent is not None), None))


def note_jobs(*jobs: Job) -> None:
    """The jobs that come of this request. One that somebody else asked for first goes on in that trace; the two are
    linked."""
    span, ids = get_current_span(), [job.id for job in jobs]
    span.set_attribute(tracing.JOB_ID, ids[0] if len(ids) == 1 else ids)
    if len(ids) == 1:
        add_log_fields(job=ids[0])
    for job in jobs:
        first = get_current_span(tracing.read_traceparent(job.traceparent)).get_span_context()
        if first.is_valid and first.trace_id != span.get_span_context().trace_id:
            span.add_link(first)
