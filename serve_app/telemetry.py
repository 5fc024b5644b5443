"""Structured logs: one JSON object per line, in the fields that Cloud Logging and Error Reporting know
(`cloud.google.com/logging/docs/structured-logging`), with the ids of the job and the trace it speaks of.

Photo content, prompts, tokens and keys never go into a line.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from serve_app import __version__

PACKAGES = ("serve_app", "ingress", "pawfect")
LIBRARIES = ("opentelemetry",)
"""Libraries whose complaints are shown, each once a minute: an exporter without its collector repeats itself."""
REPEAT_S = 60.0
SERVE = "ray.serve"
"""Logger of Ray Serve, which in a replica writes to a file and to standard error. Its own JSON has no severity, and
standard error gets none of it (`LoggingConfig.encoding`), so a replica's lines are written as ours are."""

_GOOGLE = "logging.googleapis.com/"
_ERROR_EVENT = "type.googleapis.com/google.devtools.clouderrorreporting.v1beta1.ReportedErrorEvent"
_TRACEPARENT = "traceparent"
_NONE: Mapping[str, Any] = MappingProxyType({})
_PLAIN = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime", "taskName"}
_fields: ContextVar[Mapping[str, Any]] = ContextVar("log-fields", default=_NONE)


@contextmanager
def log_context(traceparent: str | None = None, **fields: Any) -> Iterator[None]:
    """Every line logged inside carries the fields, and the trace and span of a W3C `traceparent`; also in tasks begun
    inside. Another thread has to be handed them: `contextvars.copy_context().run`. A line's own `extra` wins."""
    token = _fields.set({**_fields.get(), **fields, _TRACEPARENT: traceparent})
    try:
        yield
    finally:
        _fields.reset(token)


def add_log_fields(**fields: Any) -> None:
    """To the lines of this task from now on, until the `log_context` around it ends."""
    _fields.set({**_fields.get(), **fields})


class JsonFormatter(logging.Formatter):
    """`project` is the Google project whose traces lines are shown with; without one they carry the plain id."""

    def __init__(self, service: str, project: str | None = None) -> None:
        super().__init__()
        self._service = service
        self._project = project

    def format(self, record: logging.LogRecord) -> str:
        place = {"file": record.pathname, "line": str(record.lineno), "function": record.funcName}
        fields = dict(_fields.get())
        traceparent = fields.pop(_TRACEPARENT, None)
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "severity": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
            **fields,
            **{name: value for name, value in record.__dict__.items() if name not in _PLAIN and name[0] != "_"},
            **self._show_trace(traceparent),
            f"{_GOOGLE}sourceLocation": place,
        }
        if record.exc_info:
            line["stack_trace"] = self.formatException(record.exc_info)
        if record.levelno >= logging.ERROR:
            # Error Reporting groups by the stack trace, and lines without one by where they were written.
            line |= {"@type": _ERROR_EVENT, "serviceContext": {"service": self._service, "version": __version__}}
            if not record.exc_info:
                found = {"filePath": record.pathname, "lineNumber": record.lineno, "functionName": record.funcName}
                line["context"] = {"reportLocation": found}
        return json.dumps(line, default=str)

    def _show_trace(self, traceparent: str | None) -> dict[str, Any]:
        if traceparent is None:
            return {}
        _, trace_id, span_id, flags = traceparent.split("-")[:4]
        name = (f"{_GOOGLE}trace", f"projects/{self._project}/traces/{trace_id}")
        return {
            **dict([name if self._project else ("trace", trace_id)]),
            f"{_GOOGLE}spanId": span_id,
            f"{_GOOGLE}trace_sampled": bool(int(flags, 16) & 1),
        }


class OnceInAWhile(logging.Filter):
    """Lets the same complaint through once in `REPEAT_S`, and no more severe than `at_most`. `suppressed` says how
    often it was not shown."""

    def __init__(self, at_most: int) -> None:
        super().__init__()
        self._at_most = at_most
        self._shown: dict[tuple[str, object], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        key, now = (record.name, record.msg), time.monotonic()
        last, hidden = self._shown.get(key, (float("-inf"), 0))
        if now - last < REPEAT_S:
            self._shown[key] = (last, hidden + 1)
            return False
        self._shown[key] = (now, 0)
        record.suppressed = hidden
        record.levelno = min(record.levelno, self._at_most)
        record.levelname = logging.getLevelName(record.levelno)
        return True


def write_json(logger: logging.Logger, service: str) -> None:
    """Send one logger's lines to standard error, in a process whose other loggers are somebody else's."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    logger.addHandler(handler)


def configure_logging(level: str, service: str, project: str | None = None) -> None:
    """Send this project's logs of the current process to standard error, and the complaints of `LIBRARIES`; other
    libraries' loggers are left alone."""
    formatter = JsonFormatter(service, project)
    for name in (*PACKAGES, *LIBRARIES):
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(formatter)
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.handlers = [handler]
        if name in LIBRARIES:
            handler.addFilter(OnceInAWhile(logging.WARNING))  # it costs traces, and no job
            logger.setLevel(logging.WARNING)
        else:
            logger.setLevel(level)
    for found in logging.getLogger(SERVE).handlers:
        getattr(found, "target", found).setFormatter(formatter)  # a buffer's target formats
