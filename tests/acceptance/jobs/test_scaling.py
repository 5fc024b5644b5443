"""Settings changed in a running service. Replicas by load and by hand are for `make bench-scaling`."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from bench.completions import Completions
from bench.fake_l4s import find_deployment
from bench.offered_load import Load, Phase
from pawfect.client import Client
from pawfect.sessions import Backend
from tests.acceptance.jobs_service import JobsService
from tests.photos import make_mask, make_photo

pytestmark = pytest.mark.serve

PATIENCE_S = 60.0
OLD_STEPS, NEW_STEPS = 12, 7
"""Of the shipped row `low`, and others."""


@contextmanager
def changed_rows(service: JobsService, rows: dict[str, Any]) -> Iterator[None]:
    """Rows of the quality table in the config file of a service that is told to read it again; then as it was."""
    config = service.process.data_dir.parent / "serve_config.yaml"
    before = config.read_text()
    plan = yaml.safe_load(before)
    for name in ("Ingress", "Editor"):
        find_deployment(plan, name)["user_config"] = {"qualities": rows}
    try:
        config.write_text(yaml.safe_dump(plan))
        os.kill(service.process.pid, signal.SIGHUP)
        yield
    finally:
        config.write_text(before)
        os.kill(service.process.pid, signal.SIGHUP)


async def wait_for_steps(store: Completions, steps: int, since: float) -> None:
    """Until the latest jobs have them: more than there are ingress replicas, each of which hears by itself."""
    async with asyncio.timeout(PATIENCE_S):
        while store.read_steps(since)[-4:] != [steps] * 4:
            await asyncio.sleep(0.2)


async def test_a_changed_quality_row_holds_for_new_jobs_and_no_request_fails(jobs_service: JobsService) -> None:
    row = {"engine": "flux", "steps": NEW_STEPS, "guidance": 30, "detail": 0.5, "max_megapixels": 0.25}
    store, backend = Completions(jobs_service.process.data_dir / "pawfect.db"), Backend(jobs_service.process.data_dir)
    async with Client(jobs_service.process.url) as client:
        load = Load(client, backend, make_photo(), make_mask(), {"quality": "low"}, "tuned")
        offering = asyncio.create_task(load.follow([Phase("load", 600, 2)], load.offer_job))
        await asyncio.sleep(2)
        since = load.asked[0].asked_at
        assert set(store.read_steps(since)) == {OLD_STEPS}
        with changed_rows(jobs_service, {"low": row}):
            await wait_for_steps(store, NEW_STEPS, since)
        await wait_for_steps(store, OLD_STEPS, since)
        offering.cancel()
        await asyncio.gather(offering, return_exceptions=True)
        assert await load.settle(PATIENCE_S) == 0
    backend.close()
    assert load.answers.failed == 0, load.answers.describe_failures()
    assert {asked.outcome for asked in load.asked} == {"completed"}
