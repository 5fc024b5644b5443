"""An OpenTelemetry collector of our own: takes OTLP over HTTP and keeps the spans."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True)
class SeenSpan:
    """Ids in hex, `parent` empty for a root; times in nanoseconds of the Unix clock."""

    trace: str
    id: str
    parent: str
    name: str
    start: int
    end: int
    kind: int
    attributes: dict[str, Any]
    links: tuple[str, ...]
    resource: dict[str, Any]

    @property
    def role(self) -> str:
        return str(self.resource["pawfect.role"])


class Collector:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: list[SeenSpan] = []
        self.requests = 0
        self.is_silent = threading.Event()
        """While set, requests are taken and not answered."""
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    def start(self) -> None:
        """On the port it had before, if it had one."""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                with collector._lock:
                    collector.requests += 1
                if collector.is_silent.is_set():
                    self.connection.recv(1)  # until the other side gives up
                    return
                assert self.path == "/v1/traces"
                collector._keep(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Connections are refused from now on."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def find(self, trace: str) -> list[SeenSpan]:
        """The spans of a trace, in the order of their beginnings."""
        with self._lock:
            return sorted((span for span in self._spans if span.trace == trace), key=lambda span: span.start)

    def find_job(self, job_id: str) -> list[SeenSpan]:
        """The spans of the trace that a job belongs to."""
        with self._lock:
            traces = {span.trace for span in self._spans if span.attributes.get("pawfect.job_id") == job_id}
        return [span for trace in traces for span in self.find(trace)]

    def all(self) -> list[SeenSpan]:
        with self._lock:
            return list(self._spans)

    def _keep(self, request: ExportTraceServiceRequest) -> None:
        found = [
            SeenSpan(
                trace=span.trace_id.hex(),
                id=span.span_id.hex(),
                parent=span.parent_span_id.hex(),
                name=span.name,
                start=span.start_time_unix_nano,
                end=span.end_time_unix_nano,
                kind=span.kind,
                attributes=_read(span.attributes),
                links=tuple(link.trace_id.hex() for link in span.links),
                resource=_read(whole.resource.attributes),
            )
            for whole in request.resource_spans
            for scope in whole.scope_spans
            for span in scope.spans
        ]
        with self._lock:
            self._spans += found


def _read(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@contextmanager
def open_collector() -> Iterator[Collector]:
    collector = Collector()
    collector.start()
    try:
        yield collector
    finally:
        collector.stop()
