"""The lines that this project writes, as they are read where logs are kept."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from serve_app.telemetry import JsonFormatter


def capture(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The lines that this project writes from now on."""
    lines: list[dict[str, Any]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(JsonFormatter("pawfect").format(record)))

    for name in ("serve_app", "ingress"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [Keep()])
        monkeypatch.setattr(logging.getLogger(name), "level", logging.INFO)
    logging.Logger.manager._clear_cache()  # type: ignore[attr-defined]
    return lines
