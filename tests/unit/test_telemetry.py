"""Log lines: JSON, with their context."""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from serve_app.telemetry import LIBRARIES, PACKAGES, JsonFormatter, add_log_fields, configure_logging, log_context
from tests.spans import PARENT, SPAN, TRACE


def test_a_line_is_json_with_its_extras_and_traceback() -> None:
    try:
        raise ValueError("boom")
    except ValueError:
        record = logging.LogRecord("serve_app.x", logging.ERROR, "", 0, "job %s", ("j1",), sys.exc_info())
    record.job = "edit-1"
    line = json.loads(JsonFormatter("pawfect").format(record))
    assert (line["severity"], line["message"], line["job"], line["service"]) == ("ERROR", "job j1", "edit-1", "pawfect")
    assert "ValueError: boom" in line["stack_trace"]


def write(project: str | None = None, level: int = logging.INFO) -> dict[str, Any]:
    record = logging.LogRecord("serve_app.x", level, "/app/serve_app/x.py", 7, "text", (), None, "work")
    line: dict[str, Any] = json.loads(JsonFormatter("pawfect", project).format(record))
    return line


def test_a_line_carries_the_fields_of_its_context() -> None:
    with log_context(PARENT, job="edit-1"):
        outer = write("p1")
        with log_context(PARENT[:-1] + "0", attempt=2):
            inner = write()
        add_log_fields(jobs=["a"])
        after = write()
    assert outer["logging.googleapis.com/trace"] == f"projects/p1/traces/{TRACE}"
    assert (outer["logging.googleapis.com/spanId"], outer["logging.googleapis.com/trace_sampled"]) == (SPAN, True)
    assert (inner["job"], inner["attempt"], inner["trace"]) == ("edit-1", 2, TRACE)
    assert inner["logging.googleapis.com/trace_sampled"] is False
    assert (after["job"], after["jobs"], "attempt" in after) == ("edit-1", ["a"], False)
    place = {"file": "/app/serve_app/x.py", "line": "7", "function": "work"}
    assert outer["logging.googleapis.com/sourceLocation"] == place
    assert not {"job", "jobs", "trace", "traceparent"} & set(write())


def test_an_error_without_an_exception_is_grouped_by_its_place() -> None:
    line = write(level=logging.ERROR)
    assert line["@type"].endswith("ReportedErrorEvent")
    assert line["context"]["reportLocation"] == {
        "filePath": "/app/serve_app/x.py", "lineNumber": 7, "functionName": "work",
    }  # fmt: skip
    assert "@type" not in write(level=logging.WARNING)


def test_serves_lines_in_a_replica_are_written_as_ours(tmp_path: Path) -> None:
    """As Serve sets its logger up: a stream, and a file behind a buffer."""
    stream, file = logging.StreamHandler(), logging.FileHandler(tmp_path / "log")
    logger = logging.getLogger("ray.serve")
    before, logger.handlers = logger.handlers, [stream, logging.handlers.MemoryHandler(1, target=file)]
    try:
        with touched_loggers():
            configure_logging("INFO", "pawfect")
        assert isinstance(stream.formatter, JsonFormatter)
        assert isinstance(file.formatter, JsonFormatter)
    finally:
        logger.handlers = before
        file.close()


@contextmanager
def touched_loggers() -> Iterator[None]:
    names = (*PACKAGES, *LIBRARIES)
    before = {name: (logging.getLogger(name).handlers[:], logging.getLogger(name).propagate) for name in names}
    try:
        yield
    finally:
        for name, (handlers, propagate) in before.items():
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(logging.NOTSET)


def test_only_our_loggers_are_touched(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger().handlers[:]
    with touched_loggers():
        configure_logging("WARNING", "pawfect")
        logging.getLogger("serve_app.jobs").info("quiet")
        logging.getLogger("serve_app.jobs").warning("loud\nline")
        err = capsys.readouterr().err
        assert json.loads(err)["message"] == "loud\nline"
        assert err.count("\n") == 1, "a message cannot forge a second line"
        assert logging.getLogger().handlers == root
