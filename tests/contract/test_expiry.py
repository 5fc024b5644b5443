"""What every store promises about listing a caller's jobs and forgetting them."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from serve_app.jobs import transitions, watching
from serve_app.jobs.expiry import Expiry
from serve_app.jobs.model import Job, Operation, Session, Status, to_document
from serve_app.jobs.store import Write
from serve_app.stores import Stores
from tests.contract.conftest import STORES
from tests.contract.test_job_store import SESSION, make_job, submit
from tests.tokens import HandClock


def make_own(name: str, **changes: Any) -> Job:
    """A job that somebody asked for over HTTP."""
    own = {"id": f"job-{name}", "session": None, "owner": "caller", "expires_at": 1000.0}
    return make_job().evolve(**{**own, **changes})


def end(job: Job) -> Job:
    return transitions.close(transitions.cancel(job, 200.0, "cancelled"))


def names(jobs: Any) -> list[str]:
    return [job.id for job in jobs]


async def test_own_jobs_are_listed_newest_first_and_page_by_page(stores: Stores) -> None:
    times = {"a": 101.0, "b": 103.5, "c": 102.0, "d": 103.5, "e": 100.0}
    for name, created_at in times.items():
        await submit(stores, make_own(name, created_at=created_at))
    await submit(stores, make_own("other", owner="somebody else", created_at=104.0))
    await submit(stores, make_job("session"))
    order = ["job-d", "job-b", "job-c", "job-a", "job-e"]
    assert names(await stores.jobs.list_owned("caller", limit=10)) == order
    assert names(await stores.jobs.list_owned("somebody else", limit=10)) == ["job-other"]
    assert names(await stores.jobs.list_owned("nobody", limit=10)) == []
    listed: list[Job] = []
    while page := await stores.jobs.list_owned(
        "caller", limit=1, before=(listed[-1].created_at, listed[-1].id) if listed else None
    ):
        listed += page
    assert names(listed) == order


async def test_a_page_goes_on_where_a_job_has_been_removed(stores: Stores) -> None:
    for name, created_at in (("a", 101.0), ("b", 102.0), ("c", 102.0)):
        await submit(stores, make_own(name, created_at=created_at))
    (last,) = await stores.jobs.list_owned("caller", limit=1)
    await stores.jobs.remove(last)
    assert names(await stores.jobs.list_owned("caller", limit=5, before=(102.0, "job-c"))) == ["job-b", "job-a"]


@pytest.mark.parametrize("name", ["", "__x__", "a/b", ".", "é\0"])
async def test_any_place_that_callers_may_name_can_be_asked_for(stores: Stores, name: str) -> None:
    await submit(stores, make_own("a", created_at=100.0))
    assert names(await stores.jobs.list_owned("caller", limit=5, before=(99.0, name))) == []


async def test_what_has_ended_and_is_closed_expires_the_longest_expired_first(stores: Stores) -> None:
    await submit(stores, end(make_own("second", expires_at=300.5)))
    await submit(stores, end(make_own("first", expires_at=300.0)))
    await submit(stores, end(make_job("session", expires_at=300.7)))
    await submit(stores, end(make_own("later", expires_at=301.0)))
    await submit(stores, end(make_own("for ever", expires_at=None)))
    await submit(stores, make_own("queued", expires_at=300.0))
    await submit(stores, transitions.cancel(make_own("not closed", expires_at=300.0), 200.0, "cancelled"))
    expired = await stores.jobs.find_expired(300.9, limit=10)
    assert names(expired) == ["job-first", "job-second", "edit-session"]
    assert names(await stores.jobs.find_expired(300.9, limit=2)) == ["job-first", "job-second"]
    assert names(await stores.jobs.find_expired(299.9, limit=10)) == []


async def test_a_removed_job_is_gone_and_its_id_is_free(stores: Stores) -> None:
    job = await submit(stores, end(make_own("a")))
    other = await submit(stores, end(make_own("b")))
    await stores.jobs.remove(job)
    await stores.jobs.remove(job)
    assert await stores.jobs.get(job.id) is None
    assert names(await stores.jobs.find_expired(2000.0, limit=10)) == [other.id]
    again = await submit(stores, make_own("a", digest="new"))
    assert (again.version, again.digest) == (1, "new")


async def test_what_was_written_since_it_was_read_is_not_removed(stores: Stores) -> None:
    job = await submit(stores, end(make_own("a")))
    again = await submit(stores, make_own("a").evolve(version=job.version))
    await stores.jobs.remove(job)
    assert await stores.jobs.get(job.id) == again


async def test_a_watch_on_a_removed_job_ends(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "RECHECK_S", 0.1)
    job = await submit(stores, make_own("a"))
    seen: list[int] = []

    async def watch() -> None:
        async for found in stores.jobs.watch(job.id):
            seen.append(found.version)

    async with asyncio.timeout(20):
        watching_it = asyncio.create_task(watch())
        while not seen:
            await asyncio.sleep(0.01)
        await stores.jobs.remove(job)
        await watching_it
    assert seen == [1]
    assert [found async for found in stores.jobs.watch(job.id)] == []


async def test_images_are_deleted_and_deleting_them_again_does_no_harm(stores: Stores) -> None:
    path, beside = "jobs/job-a/init_image", "jobs/job-ab/init_image"
    for name in (path, beside):
        await stores.photos.write(name, b"image", content_type="image/png", expected="")
    for _ in range(2):
        await stores.photos.delete(path)
        assert await stores.photos.stat(path) == ""
    await stores.photos.delete("jobs/job-b")
    assert await stores.photos.stat(beside) != ""
    assert await stores.photos.write(path, b"new", content_type="image/png", expected="") != ""


async def test_a_sweep_forgets_what_has_expired_and_leaves_the_apps_photos(stores: Stores) -> None:
    clock = HandClock()
    clock.time = 2000.0
    own = await submit(stores, end(make_own("a", operation=Operation.INPAINT)))
    of_session = await submit(stores, end(make_job("s", expires_at=1000.0)))
    alive = await submit(stores, end(make_own("b", expires_at=2000.5)))
    paths = [own.files.original, own.files.mask, own.files.result]
    kept = [SESSION.original_path, SESSION.edited_path, alive.files.result]
    for path in [*paths, *kept]:
        assert path is not None
        await stores.photos.write(path, b"image", content_type="image/png", expected="")
    assert await Expiry(stores.jobs, stores.photos, clock).sweep() == 2
    assert [await stores.jobs.get(job.id) for job in (own, of_session, alive)] == [None, None, alive]
    assert [await stores.photos.stat(path) for path in paths if path] == ["", "", ""]
    assert "" not in [await stores.photos.stat(path) for path in kept]
    assert await Expiry(stores.jobs, stores.photos, clock).sweep() == 0


async def test_of_sweeps_at_the_same_time_each_job_is_forgotten_by_one(
    stores: Stores, kind: str, tmp_path: Path
) -> None:
    clock = HandClock()
    for number in range(6):
        await submit(stores, end(make_own(str(number))))
    async with STORES[kind](tmp_path) as others:
        sweeps = [Expiry(each.jobs, each.photos, clock) for each in (stores, others, others)]
        assert sum(await asyncio.gather(*(sweep.sweep() for sweep in sweeps))) == 6
    assert await stores.jobs.find_expired(clock.now(), limit=10) == []


async def test_records_of_earlier_versions_are_read_and_stay(stores: Stores) -> None:
    """They have neither an owner nor an expiry."""
    document = to_document(end(make_job("old")))
    for name in ("operation", "engine", "owner", "digest", "expires_at"):
        del document[name]
    await put_document(stores, "edit-old", document)
    found = await stores.jobs.get("edit-old")
    assert found is not None
    assert (found.status, found.expires_at, found.owner) == (Status.CANCELLED, None, "")
    assert await stores.jobs.find_expired(1e12, limit=10) == []
    joined = await stores.jobs.change(
        found.id,
        None,
        lambda job, _: Write(transitions.join(job, make_job(expires_at=900.0), "m2")) if job is not None else None,
    )
    assert joined is not None
    assert names(await stores.jobs.find_expired(900.0, limit=10)) == ["edit-old"]


async def put_document(stores: Stores, job_id: str, document: dict[str, Any]) -> None:
    """Write a job's document as it is, beside the store."""
    await submit(stores, end(make_job("old")))
    if hasattr(stores.jobs, "_database"):
        await stores.jobs._database.run(
            lambda connection: connection.execute(
                "UPDATE jobs SET body = ? WHERE id = ?", (json.dumps(document), job_id)
            )
        )
    else:
        await stores.jobs._jobs.document(job_id).set(document)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["gcp"], indirect=True)
async def test_the_ttl_policy_of_firestore_takes_only_what_has_ended(stores: Stores) -> None:
    async def read_policy_field(job: Job) -> Any:
        snapshot = await stores.jobs._jobs.document(job.id).get()  # type: ignore[attr-defined]
        return snapshot.get("expire_at")

    queued = await submit(stores, make_own("a", expires_at=86400.0))
    assert await read_policy_field(queued) is None
    assert await read_policy_field(await submit(stores, end(queued))) == datetime(1970, 1, 3, tzinfo=UTC)
    assert await read_policy_field(await submit(stores, end(make_own("b", expires_at=None)))) is None


async def test_the_jobs_of_a_users_sessions_are_found_page_by_page(stores: Stores) -> None:
    for name in ("c", "a", "b"):
        await submit(stores, make_job(name))
    await submit(stores, make_job("z").evolve(session=Session("somebody-else", SESSION.session_id)))
    await submit(stores, make_own("http"))
    assert names(await stores.jobs.list_of_user(SESSION.user_id, limit=2)) == ["edit-a", "edit-b"]
    assert names(await stores.jobs.list_of_user(SESSION.user_id, limit=2, after="edit-b")) == ["edit-c"]
    assert names(await stores.jobs.list_of_user(SESSION.user_id, limit=2, after="edit-c")) == []
    assert names(await stores.jobs.list_of_user("nobody", limit=2)) == []
