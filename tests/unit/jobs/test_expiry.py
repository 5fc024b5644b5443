"""Forgetting jobs when stores are out, other Editors are faster, and somebody asks again in the middle of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import StoreUnavailable
from serve_app.jobs import expiry, transitions
from serve_app.jobs.expiry import BATCH, HOLD_S, Expiry
from serve_app.jobs.model import Job, Operation
from serve_app.jobs.service import EditOrder
from serve_app.jobs.sqlite_changes import SqliteChanges
from serve_app.jobs.sqlite_database import SqliteDatabase
from serve_app.jobs.submission import JobOrder, Submitter
from serve_app.photos.store import ABSENT
from serve_app.settings import Settings
from serve_app.settings_sections import JobSettings
from serve_app.stores import Stores, open_stores
from tests.contract.test_expiry import end, make_own
from tests.contract.test_job_store import make_job, submit
from tests.engines import FakeEngine
from tests.photos import make_mask, make_photo
from tests.tokens import HandClock
from tests.workbench import SESSION, open_workbench

Before = Callable[[str], Awaitable[None]]
DAY_S = 86400


class Photos:
    """A photo store with something happening before each deletion."""

    def __init__(self, stores: Stores, before: Before) -> None:
        self._photos = stores.photos
        self._before = before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._photos, name)

    async def delete(self, path: str) -> None:
        await self._before(path)
        await self._photos.delete(path)


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    opened = open_stores(Settings(data_dir=tmp_path))
    yield opened
    await opened.close()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


async def put_expired(stores: Stores, name: str = "a") -> Job:
    """A finished job with its three images, whose time is over."""
    job = await submit(stores, end(make_own(name)))
    for path in expiry.list_images(job):
        await stores.photos.write(path, b"image", content_type="image/png", expected=ABSENT)
    return job


async def list_kept(stores: Stores, job: Job) -> list[str]:
    return [path for path in expiry.list_images(job) if await stores.photos.stat(path) != ABSENT]


async def test_the_record_stays_until_the_last_image_is_gone(stores: Stores, clock: HandClock) -> None:
    job = await put_expired(stores)

    async def fail_at_the_result(path: str) -> None:
        if path.endswith("result"):
            raise StoreUnavailable("out")

    assert await Expiry(stores.jobs, Photos(stores, fail_at_the_result), clock).sweep() == 0
    assert await list_kept(stores, job) == [job.files.result]
    assert await stores.jobs.get(job.id) is not None
    again = Expiry(stores.jobs, stores.photos, clock)
    assert await again.sweep() == 0, "the hold of the one that failed has not run out"
    clock.time += HOLD_S
    assert await again.sweep() == 1
    assert await list_kept(stores, job) == []
    assert await stores.jobs.get(job.id) is None


async def test_one_job_that_cannot_be_forgotten_does_not_keep_the_others(stores: Stores, clock: HandClock) -> None:
    stuck, *others = [await put_expired(stores, name) for name in "abc"]

    async def fail_for_one(path: str) -> None:
        if stuck.id in path:
            raise StoreUnavailable("out")

    assert await Expiry(stores.jobs, Photos(stores, fail_for_one), clock).sweep() == 2
    assert [await stores.jobs.get(job.id) for job in others] == [None, None]
    assert await stores.jobs.get(stuck.id) is not None


async def test_deleting_that_takes_too_long_is_given_up(
    stores: Stores, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "WORK_S", 0.05)
    job = await put_expired(stores)

    async def hang(_path: str) -> None:
        await asyncio.Event().wait()

    assert await asyncio.wait_for(Expiry(stores.jobs, Photos(stores, hang), clock).sweep(), 10) == 0
    assert len(await list_kept(stores, job)) == 3


async def test_another_sweep_leaves_a_job_alone_that_is_being_forgotten(stores: Stores, clock: HandClock) -> None:
    await put_expired(stores)
    counts: list[int] = []

    async def sweep_meanwhile(_path: str) -> None:
        counts.append(await Expiry(stores.jobs, stores.photos, clock).sweep())

    assert await Expiry(stores.jobs, Photos(stores, sweep_meanwhile), clock).sweep() == 1
    assert counts == [0, 0, 0]


async def test_a_late_sweep_does_not_touch_the_next_job_of_the_same_id(stores: Stores, clock: HandClock) -> None:
    """It found the expired job before another Editor forgot it and the same key brought a new one."""
    await put_expired(stores)
    find = stores.jobs.find_expired

    class Late:
        def __getattr__(self, name: str) -> Any:
            return getattr(stores.jobs, name)

        async def find_expired(self, now: float, *, limit: int) -> Any:
            found = await find(now, limit=limit)
            assert await Expiry(stores.jobs, stores.photos, clock).sweep() == 1
            await submit(stores, make_own("a", expires_at=clock.time + DAY_S))
            for path in expiry.list_images(found[0]):
                await stores.photos.write(path, b"new", content_type="image/png", expected=ABSENT)
            return found

    assert await Expiry(Late(), stores.photos, clock).sweep() == 0
    again = await stores.jobs.get("job-a")
    assert again is not None
    assert len(await list_kept(stores, again)) == 3


async def test_a_session_job_asked_for_again_meanwhile_is_kept(stores: Stores, clock: HandClock) -> None:
    job = await submit(stores, end(make_job(expires_at=1000.0)))
    remove = stores.jobs.remove

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(stores.jobs, name)

        async def remove(self, held: Job) -> None:
            fresh = make_job(created_at=clock.time, expires_at=clock.time + DAY_S)
            await submit(stores, transitions.requeue(held, fresh, "m2"))
            await remove(held)

    await Expiry(Slow(), stores.photos, clock).sweep()
    again = await stores.jobs.get(job.id)
    assert again is not None
    assert (again.deliveries, again.lease) == (("m1", "m2"), None)


async def test_a_run_goes_on_until_nothing_is_left_and_through_outages(
    stores: Stores, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "INTERVAL_S", 0.01)
    outages = [StoreUnavailable("out"), ValueError("a defect")]

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(stores.jobs, name)

        async def find_expired(self, now: float, *, limit: int) -> Any:
            if outages:
                raise outages.pop()
            return await stores.jobs.find_expired(now, limit=limit)

    for number in range(BATCH + 3):
        await submit(stores, end(make_own(f"{number}", operation=Operation.GENERATE)))
    running = asyncio.create_task(Expiry(Failing(), stores.photos, clock).run())
    async with asyncio.timeout(20):
        while await stores.jobs.find_expired(clock.now(), limit=1):
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_no_change_number_is_given_twice(tmp_path: Path, stores: Stores) -> None:
    """Else a watcher that has heard of a removed job's last change would not hear of the next one."""
    database = SqliteDatabase(tmp_path / "pawfect.db")
    changes = SqliteChanges(database)
    watched = await submit(stores, make_own("watched"))
    assert await changes.read() is None
    last = await submit(stores, end(make_own("last")))
    assert await changes.read() == {last.id}
    await stores.jobs.remove(last)
    await submit(stores, watched)
    assert await changes.read() == {last.id, watched.id}
    database.close()


async def test_few_removals_are_remembered(tmp_path: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.jobs.sqlite.REMOVALS_KEPT", 3)
    database = SqliteDatabase(tmp_path / "pawfect.db")
    for number in range(5):
        await stores.jobs.remove(await submit(stores, end(make_own(str(number)))))
    rows = await database.run(lambda connection: connection.execute("SELECT id FROM removals").fetchall())
    assert rows == [("job-3",), ("job-4",)]
    assert await database.run(lambda connection: connection.execute("SELECT number FROM last_change").fetchone()) == (
        10,
    )
    database.close()


async def test_a_key_may_be_used_again_once_its_job_is_forgotten(stores: Stores, clock: HandClock) -> None:
    submitter = Submitter(stores.jobs, stores.photos, Settings(), clock)
    order = JobOrder(
        owner="caller", operation=Operation.INPAINT, key="k", init_image=make_photo(), mask_image=make_mask()
    )
    first = await submitter.submit(order)
    await submit(stores, end(first))
    assert (await submitter.submit(order)).status.is_final
    assert first.expires_at is not None
    clock.time = first.expires_at
    assert await Expiry(stores.jobs, stores.photos, clock).sweep() == 1
    again = await submitter.submit(order)
    assert (again.id, again.status) == (first.id, "queued")
    assert again.files.original is not None
    assert await stores.photos.stat(again.files.original) == again.original_generation


async def test_a_session_job_is_remembered_longer_than_its_message_may_come_again(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}) as bench:
        await bench.put_session()
        clock = HandClock()
        bench.service._clock = clock
        job = await bench.finish(await bench.submit("m1", deadline_s=100))
        assert job.expires_at == clock.time + 100 + JobSettings().record_ttl_s
        clock.time += 20 * DAY_S
        joined = await bench.service.submit(EditOrder(SESSION, "m2", deadline_s=100))
        assert (joined.id, joined.status) == (job.id, job.status)
        assert joined.expires_at == clock.time + 100 + JobSettings().record_ttl_s
        sweeping = Expiry(bench.stores.jobs, bench.stores.photos, clock)
        clock.time += 29 * DAY_S
        assert await sweeping.sweep() == 0
        clock.time += 2 * DAY_S
        assert await sweeping.sweep() == 1
        document, shown = await bench.service.find_session(SESSION)
        assert (document["processingStatus"], shown) == ("completed", None)
        assert await bench.stores.photos.stat(SESSION.edited_path) != ABSENT


@pytest.mark.parametrize("seconds", [0, 7 * DAY_S - 1, 1e12])
def test_records_cannot_be_kept_shorter_than_messages(seconds: float) -> None:
    with pytest.raises(ValueError, match="record_ttl_s"):
        JobSettings(record_ttl_s=seconds)
