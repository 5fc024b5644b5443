"""The real service, started once for this package: Ray Serve, the HTTP proxy, the draft engine with its weights, stores
on disk. It ends with the package: an idle one takes a fifth of a core from the tests after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pawfect.client import Client
from pawfect.service_process import ServiceProcess
from pawfect.sessions import Backend
from serve_app.jobs.model import Session

ENVIRONMENT = {"PAWFECT_JOBS__PROGRESS_INTERVAL_S": "0.1", "DOWNLOAD_URL_TTL": "10"}
"""A link's time, so that one can be seen to end."""


@dataclass(frozen=True)
class Running:
    process: ServiceProcess
    data: Path


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory, weights: None) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("service")
    with ServiceProcess(root / "data", root / "service.log", environment=ENVIRONMENT) as process:
        asyncio.run(process.wait_ready())
        yield Running(process, root / "data")


@pytest.fixture
async def client(service: Running) -> AsyncIterator[Client]:
    async with Client(service.process.url) as client:
        yield client


@pytest.fixture
def backend(service: Running) -> Iterator[Backend]:
    backend = Backend(service.data)
    yield backend
    backend.close()


@pytest.fixture
def session(request: pytest.FixtureRequest) -> Session:
    """A session of the test's own."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    return Session("acceptance", name[-100:])
