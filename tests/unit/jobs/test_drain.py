"""A worker that is stopped: what it gives back, what it lets finish, and what it still writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from serve_app.engines.protocol import Event, FillRequest, Step
from serve_app.jobs import transitions
from serve_app.jobs.hold import Hold
from serve_app.jobs.model import Job, Progress, Stage, Status
from tests.engines import FakeEngine
from tests.workbench import open_workbench


async def test_draining_gives_running_jobs_back_unharmed(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        await bench.put_session()
        job = await bench.until(await bench.submit(), status=Status.PROCESSING)
        await bench.runner.drain(0.1)
        found = await bench.stores.jobs.get(job.id)
        assert found is not None
        assert (found.status, found.crashes, found.transient_failures) == (Status.QUEUED, 0, 0)


async def test_draining_waits_for_no_engine_that_has_not_begun(tmp_path: Path) -> None:
    """It may be on its way out itself, as when the whole service is stopped."""
    async with open_workbench(tmp_path, {"draft": SilentEngine()}) as bench:
        await bench.put_session()
        job = await bench.until(await bench.submit(), progress=Progress(Stage.ENGINE))
        async with asyncio.timeout(20):
            await bench.runner.drain(3600)
        found = await bench.stores.jobs.get(job.id)
        assert found is not None
        assert (found.status, found.crashes, found.transient_failures) == (Status.QUEUED, 0, 0)


class SilentEngine(FakeEngine):
    """Has no replica that would take a request."""

    async def run(self, request: FillRequest) -> AsyncGenerator[Event]:
        await asyncio.Event().wait()
        yield Step(0, 1)


async def test_the_end_of_a_run_is_written_though_the_drains_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, go_on, end = asyncio.Event(), asyncio.Event(), Hold.end

    async def write_slowly(hold: Hold, change: transitions.End) -> Job | None:
        writing.set()
        await go_on.wait()
        return await end(hold, change)

    monkeypatch.setattr(Hold, "end", write_slowly)
    async with open_workbench(tmp_path, {"draft": FakeEngine()}) as bench:
        await bench.put_session()
        job = await bench.submit()
        await writing.wait()
        draining = asyncio.create_task(bench.runner.drain(0))
        await asyncio.wait({draining}, timeout=0.1)
        go_on.set()
        await draining
        found = await bench.stores.jobs.get(job.id)
        assert found is not None
        assert found.status is Status.COMPLETED
