"""The real service, started once: Ray Serve, the HTTP proxy, the draft engine with its weights, stores on disk. And
once more with FLUX and two ingress replicas, for the tests of jobs over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pawfect.client import Client
from pawfect.service_process import ServiceProcess
from pawfect.sessions import Backend
from serve_app.errors import WeightsUnavailable
from serve_app.jobs.model import Session
from serve_app.settings import Settings
from serve_app.weights import locate
from tests.acceptance.jobs_service import JobsService, open_jobs_service
from tests.acceptance.observed_service import ObservedService, open_observed_service

ENVIRONMENT = {"PAWFECT_JOBS__PROGRESS_INTERVAL_S": "0.1", "DOWNLOAD_URL_TTL": "10"}
"""A link's time, so that one can be seen to end."""


@pytest.fixture(scope="session", autouse=True)
def weights() -> None:
    try:
        locate("migan", Settings().engines.weights_dir.expanduser())
    except WeightsUnavailable as error:
        pytest.skip(error.message)


@dataclass(frozen=True)
class Running:
    process: ServiceProcess
    data: Path


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def jobs_service(tmp_path_factory: pytest.TempPathFactory, weights: None) -> Iterator[JobsService]:
    with open_jobs_service(tmp_path_factory.mktemp("jobs")) as service:
        yield service


@pytest.fixture
async def caller(jobs_service: JobsService) -> AsyncIterator[Client]:
    async with Client(jobs_service.process.url) as client:
        yield client


@pytest.fixture(scope="session")
def observed(tmp_path_factory: pytest.TempPathFactory, weights: None) -> Iterator[ObservedService]:
    with open_observed_service(tmp_path_factory.mktemp("observed")) as service:
        yield service
