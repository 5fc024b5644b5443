"""Log lines: JSON, with their context."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from serve_app.telemetry import PACKAGES, JsonFormatter, configure_logging


def test_a_line_is_json_with_its_extras_and_traceback() -> None:
    try:
        raise ValueError("boom")
    except ValueError:
        record = logging.LogRecord("serve_app.x", logging.ERROR, "", 0, "job %s", ("j1",), sys.exc_info())
    record.job = "edit-1"
    line = json.loads(JsonFormatter("pawfect").format(record))
    assert (line["severity"], line["message"], line["job"], line["service"]) == ("ERROR", "job j1", "edit-1", "pawfect")
    assert "ValueError: boom" in line["traceback"]


def test_only_our_loggers_are_touched(capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: (logging.getLogger(name).handlers[:], logging.getLogger(name).propagate) for name in PACKAGES}
    root = logging.getLogger().handlers[:]
    try:
        configure_logging("WARNING", "pawfect")
        logging.getLogger("serve_app.jobs").info("quiet")
        logging.getLogger("serve_app.jobs").warning("loud\nline")
        err = capsys.readouterr().err
        assert json.loads(err)["message"] == "loud\nline"
        assert err.count("\n") == 1, "a message cannot forge a second line"
        assert logging.getLogger().handlers == root
    finally:
        for name, (handlers, propagate) in before.items():
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(logging.NOTSET)
