"""What every job store promises about headshots: a lane of their own, and the document that shows them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serve_app.errors import EngineFailed, HeadshotRejected
from serve_app.jobs import headshot_view, transitions
from serve_app.jobs.expiry import Expiry
from serve_app.jobs.model import Headshot, Job, Lane, Operation, Progress, Stage, Status
from serve_app.jobs.session_view import Document
from serve_app.jobs.store import Write
from serve_app.settings_sections import JobSettings
from serve_app.stores import Stores
from tests.contract.test_job_store import end, make_job, submit
from tests.tokens import HandClock

SETTINGS = JobSettings()
QUALITY = {"pass": False, "metrics": {"blur_var": 12.5, "h": 900, "w": 1200}, "reasons": ["image_blurry"]}


def make_headshot(name: str = "a", **changes: Any) -> Job:
    path = f"headshots/originals/headshot-{name}/original/rex.jpg"
    values = {"id": f"headshot-{name}", "session": None, "operation": Operation.HEADSHOT, "owner": "caller"}
    return make_job().evolve(**{**values, "original_path": path, "expires_at": 1000.0, **changes})


async def claim(stores: Stores, lane: Lane, now: float = 110.0) -> Job | None:
    def decide(job: Job | None, _document: Document | None) -> Write:
        assert job is not None
        return Write(transitions.claim(job, "t", now, SETTINGS))

    return await stores.jobs.claim(now, decide, lane=lane)


async def read(stores: Stores, job: Job) -> dict[str, Any] | None:
    document: dict[str, Any] | None = await stores.jobs.get_headshot(job.id)  # type: ignore[attr-defined]
    return document


async def test_a_headshot_is_read_back_as_it_was_written(stores: Stores) -> None:
    headshot = Headshot(QUALITY, "https://a/preview", "https://a/print", 4000.0)
    job = await submit(stores, make_headshot(headshot=headshot))
    assert await stores.jobs.get(job.id) == job
    assert job.headshot == headshot


async def test_no_lane_claims_from_the_other(stores: Stores) -> None:
    """Many of one lane, all older, do not hide the one of the other."""
    await asyncio.gather(*(submit(stores, make_job(str(i))) for i in range(25)))
    headshot = await submit(stores, make_headshot(created_at=105.0))
    found = await claim(stores, Lane.HEADSHOTS)
    assert found is not None
    assert found.id == headshot.id
    assert await claim(stores, Lane.HEADSHOTS) is None
    edit = await claim(stores, Lane.IMAGES)
    assert edit is not None
    assert edit.operation is Operation.INPAINT


async def test_a_headshot_whose_worker_died_is_claimed_again_in_its_lane(stores: Stores) -> None:
    await submit(stores, make_headshot())
    assert await claim(stores, Lane.HEADSHOTS) is not None
    later = 110.0 + SETTINGS.lease_s
    assert await claim(stores, Lane.IMAGES, later) is None
    again = await claim(stores, Lane.HEADSHOTS, later)
    assert again is not None
    assert (again.attempts, again.crashes) == (2, 1)


async def test_the_document_follows_the_job(stores: Stores) -> None:
    job = await submit(stores, make_headshot())
    shown = await read(stores, job)
    assert shown == headshot_view.describe(job)
    assert (shown["status"], shown["quality"], shown["preview_url"]) == ("queued", None, None)
    running = await claim(stores, Lane.HEADSHOTS)
    assert running is not None
    assert (await read(stores, job) or {})["status"] == "processing"
    running = await end(stores, running, lambda job, *_: job.evolve(progress=Progress(Stage.ENGINE, 1, 5)))
    headshot = Headshot(QUALITY, "https://a/preview", "https://a/print", 4000.0)
    outcome = transitions.Outcome({"engine": 1.0}, "headshots", 1.0, 0.0, 0.0, headshot)
    done = await end(stores, running, transitions.completing(outcome))
    shown = await read(stores, done)
    assert shown == headshot_view.describe(done)
    assert (shown["status"], shown["quality"]) == ("done", QUALITY)
    assert (shown["preview_url"], shown["print_url"]) == ("https://a/preview", "https://a/print")
    assert (shown["links_expire_at"], shown["created_at"], shown["finished_at"]) == (4000.0, 100.0, done.finished_at)


async def test_a_run_that_is_repeated_shows_no_error(stores: Stores) -> None:
    await submit(stores, make_headshot())
    running = await claim(stores, Lane.HEADSHOTS)
    assert running is not None
    again = await end(stores, running, transitions.settling(EngineFailed("It broke."), SETTINGS))
    assert (again.status, again.error) == (Status.QUEUED, "It broke.")
    shown = await read(stores, again) or {}
    assert (shown["status"], shown["error"], shown["finished_at"]) == ("queued", None, None)


async def test_a_rejected_photo_is_shown_with_what_was_found(stores: Stores) -> None:
    await submit(stores, make_headshot())
    running = await claim(stores, Lane.HEADSHOTS)
    assert running is not None
    failed = await end(stores, running, transitions.settling(HeadshotRejected("It is blurred.", QUALITY), SETTINGS))
    assert failed.status is Status.FAILED
    shown = await read(stores, failed) or {}
    assert (shown["status"], shown["error"], shown["error_code"]) == ("failed", "It is blurred.", "headshot_rejected")
    assert shown["quality"] == QUALITY


@pytest.mark.parametrize(("owner", "kept"), [("caller", False), ("", True)])
async def test_forgetting_takes_everything_along_but_a_senders_original(stores: Stores, owner: str, kept: bool) -> None:
    job = make_headshot(owner=owner)
    paths = [job.files.original, job.files.result, job.files.preview]
    for path in paths:
        assert path is not None
        await stores.photos.write(path, b"file", content_type="image/png", expected="")
    ended = await submit(stores, transitions.close(transitions.cancel(job, 200.0, "cancelled")))
    clock = HandClock()
    clock.time = 1000.0
    assert await Expiry(stores.jobs, stores.photos, clock).sweep() == 1
    assert await stores.jobs.get(ended.id) is None
    assert await read(stores, ended) is None
    assert [bool(await stores.photos.stat(path or "")) for path in paths] == [kept, False, False]
