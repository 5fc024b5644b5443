"""The service with FLUX and two ingress replicas, started once for this package and ended with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from pawfect.client import Client
from tests.acceptance.jobs_service import JobsService, open_jobs_service


@pytest.fixture(scope="package")
def jobs_service(tmp_path_factory: pytest.TempPathFactory, weights: None) -> Iterator[JobsService]:
    with open_jobs_service(tmp_path_factory.mktemp("jobs")) as service:
        yield service


@pytest.fixture
async def caller(jobs_service: JobsService) -> AsyncIterator[Client]:
    async with Client(jobs_service.process.url) as client:
        yield client
