"""What tests of who is let in share: key servers, and what is logged of those who are sent away."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tests.tokens import KeyServer, serve_keys


@pytest.fixture(scope="module")
def key_server() -> Iterator[KeyServer]:
    with serve_keys() as server:
        yield server


@pytest.fixture
def server() -> Iterator[KeyServer]:
    """One of the test's own, to count and to change."""
    with serve_keys() as server:
        yield server


@pytest.fixture
def log() -> Iterator[list[dict[str, Any]]]:
    """What is logged of those who are sent away."""
    lines: list[dict[str, Any]] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append({**record.__dict__, "text": record.getMessage()})

    logger, handler = logging.getLogger("ingress.auth"), Lines()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
