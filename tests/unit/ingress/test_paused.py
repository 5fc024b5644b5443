"""A pause at the door: nothing new comes in, everything else goes on."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from serve_app.jobs.controls import Pause
from serve_app.jobs.exhaustion import Exhaustion
from serve_app.jobs.model import Job, Status
from tests import headshots_api
from tests.api import Api, expect_problem, open_api
from tests.photos import make_mask, make_photo
from tests.workbench import SESSION as ITS_SESSION

SESSION = {"userId": "user", "sessionId": "session"}
PATH = "/v1/users/user/sessions/session"
JOB = {
    "operation": "ImageInpaint",
    "init_image": base64.b64encode(make_photo()).decode(),
    "mask_image": base64.b64encode(make_mask()).decode(),
}


@dataclass(frozen=True)
class GivenUp:
    data: str
    id: str = "m1"
    attributes: Mapping[str, str] = field(default_factory=dict)


async def pause(api: Api) -> None:
    now = time.time()
    await api.bench.stores.controls.change(lambda controls: controls.with_pause(Pause(now, "bad weights", "ops")))
    await api.controls.refresh()


async def resume(api: Api) -> None:
    await api.bench.stores.controls.change(lambda controls: controls.with_pause(None))
    await api.controls.refresh()


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/v1/jobs", {"json": JOB}),
        (f"{PATH}/edit", {}),
        ("/v1/images/generations", {"json": {"prompt": "a dog"}}),
        ("/headshot", {"files": {"file": ("a.jpg", make_photo(), "image/jpeg")}}),
        ("/headshot-async", {"files": {"file": ("a.jpg", make_photo(), "image/jpeg")}}),
        ("/headshot/uploads", {"json": {"content_type": "image/jpeg"}}),
    ],
)
async def test_new_work_is_told_to_come_again(tmp_path: Path, path: str, sent: dict[str, object]) -> None:
    async with open_api(tmp_path) as api:
        await api.bench.put_session()
        await pause(api)
        response = await api.http.post(path, **sent)  # type: ignore[arg-type]
        body = expect_problem(response, 503, "paused")
        assert "bad weights" in body["detail"]
        assert int(response.headers["retry-after"]) >= 1
        assert (await api.bench.stores.jobs.backlog(0.0)).queued == 0
        await resume(api)
        assert (await api.http.post(path, **sent)).status_code != 503  # type: ignore[arg-type]


async def test_a_push_is_to_be_delivered_again_and_leaves_no_dead_letter(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        await api.bench.put_session()
        await pause(api)
        expect_problem(await api.push(SESSION), 503, "paused")
        expect_problem(await api.push({"sessionId": "no user"}), 503, "paused")
        assert api.bench.sink.value("pawfect_pushes_total", status="503") == 2
        assert await api.bench.stores.dead_letters.latest(10) == []
        await resume(api)
        assert (await api.push(SESSION)).status_code == 204


async def find_only_job(api: Api) -> Job:
    (job,) = await api.bench.stores.jobs.find(status=Status.QUEUED, limit=10)
    return job


async def test_a_push_becomes_a_job_that_waits_and_needs_no_further_delivery(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        api.bench.runner._is_paused = lambda: api.controls.is_paused
        await api.bench.put_session()
        await pause(api)
        for _ in range(2):
            expect_problem(await api.push(SESSION), 503, "paused")
        job = await find_only_job(api)
        assert (job.attempts, job.deliveries) == (0, ("m1",))
        shown = await api.bench.backend.read(ITS_SESSION)
        assert shown is not None
        assert (shown["jobId"], shown["processingStatus"]) == (job.id, "processing")
        exhaustion = Exhaustion(None, api.bench.stores.jobs, api.bench.headshots.refuse)  # type: ignore[arg-type]
        await exhaustion.handle(GivenUp(job.message))
        assert await api.bench.backend.read(ITS_SESSION) == shown, "the message is given up, the job is not"
        await resume(api)
        api.bench.nudge()
        await api.bench.until(job, status=Status.COMPLETED)
        await pause(api)
        assert (await api.push(SESSION)).status_code == 204, "what has ended is acknowledged at any time"


async def test_a_headshots_push_becomes_a_job_that_waits(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        await headshots_api.put_original(api)
        await pause(api)
        expect_problem(await headshots_api.push(api, headshots_api.MESSAGE), 503, "paused")
        assert (await find_only_job(api)).id == headshots_api.MESSAGE["job_id"]
        useless = {**headshots_api.MESSAGE, "job_id": "perkie-2", "orig_bucket": "elsewhere"}
        expect_problem(await headshots_api.push(api, useless, "m2"), 503, "paused")
        assert await api.bench.stores.jobs.get("perkie-2") is None, "nothing is refused meanwhile"
        assert await api.bench.stores.dead_letters.latest(10) == []


async def test_a_push_that_waits_for_a_queued_job_is_told_at_once(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        api.bench.service._is_paused = lambda: api.controls.is_paused
        await api.bench.put_session()
        waiting = asyncio.create_task(api.push(SESSION))
        async with asyncio.timeout(20):
            while not (await api.bench.stores.jobs.backlog(0.0)).queued:
                await asyncio.sleep(0.02)
            await pause(api)
            assert (await waiting).status_code == 503
        assert (await api.bench.stores.jobs.backlog(0.0)).queued == 1, "its job stays in the queue"


async def test_what_is_there_can_be_asked_for_and_cancelled(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        await api.bench.put_session()
        job = await api.bench.submit()
        await pause(api)
        assert (await api.http.get(f"{PATH}/edit")).status_code in (200, 405)
        assert (await api.http.get(f"/v1/jobs/{job.id}")).status_code == 200
        assert (await api.http.get("/healthz")).status_code == 200
        assert (await api.http.get("/ready")).status_code == 200, "a paused service is not to be replaced"
        assert (await api.http.delete(f"/v1/jobs/{job.id}")).status_code == 200
        found = await api.bench.stores.jobs.get(job.id)
        assert found is not None
        assert found.status is Status.CANCELLED
