"""A caller of the OpenAI-compatible routes who hangs up leaves no job behind."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from serve_app.jobs.model import Status
from tests.api import open_api
from tests.unit.ingress.openai_client import call_edit, list_jobs, until_jobs


@pytest.mark.parametrize("fields", [{}, {"stream": "true"}], ids=["waiting", "streaming"])
@pytest.mark.parametrize("way", ["hung up", "task cancelled"])
@pytest.mark.parametrize("start", [False, True], ids=["queued", "running"])
async def test_who_hangs_up_cancels_all_jobs(tmp_path: Path, fields: dict[str, str], way: str, start: bool) -> None:
    async with open_api(tmp_path, start=start) as api:
        api.engine.gate.clear()
        call = call_edit(api, n="2", **fields)
        await until_jobs(api, 2, Status.PROCESSING if start else Status.QUEUED)
        await asyncio.sleep(0.05)  # into its waiting
        if way == "hung up":
            call.hang_up()
            await call.end()
        else:
            call.task.cancel()
            await asyncio.gather(call.task, return_exceptions=True)
        await until_jobs(api, 2, Status.CANCELLED)
        assert "b64_json" not in call.text


async def test_who_leaves_while_the_jobs_are_being_written_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_api(tmp_path, start=False) as api:
        store, writing, go_on = api.bench.stores.jobs, asyncio.Event(), asyncio.Event()
        change = store.change

        async def change_slowly(job_id: str, session: Any, decide: Any) -> Any:
            writing.set()
            await go_on.wait()
            return await change(job_id, session, decide)

        monkeypatch.setattr(store, "change", change_slowly)
        call = call_edit(api, n="2")
        await asyncio.wait_for(writing.wait(), 20)
        call.task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(call.task, return_exceptions=True)
        assert [job.status for job in await list_jobs(api)] == [Status.CANCELLED] * 2
