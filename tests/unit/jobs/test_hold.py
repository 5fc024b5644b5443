"""A worker's hold on a job, on clocks that only the test moves."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.jobs import transitions
from serve_app.jobs.hold import Hold, Interruption
from serve_app.jobs.model import Job, Progress, Stage
from serve_app.jobs.session_view import Document
from serve_app.jobs.store import Decide, Write
from serve_app.settings import Settings
from serve_app.settings_sections import JobSettings
from serve_app.stores import Stores, open_stores
from tests.unit.jobs.test_transitions import make_job
from tests.workbench import SESSION

SETTINGS = JobSettings(lease_s=30, progress_interval_s=10)


class Clocks:
    """A wall clock and a monotonic one, which need not agree."""

    def __init__(self) -> None:
        self.wall, self.steady = 1001.0, 50.0

    def now(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.steady


async def take(stores: Stores, clocks: Clocks) -> Hold:
    def claim(job: Job | None, _document: Document | None) -> Write:
        return Write(transitions.claim(job or make_job(session=SESSION), "token", clocks.now(), SETTINGS))

    job = await stores.jobs.change("edit-1", SESSION, claim)
    assert job is not None
    return Hold(stores.jobs, clocks, SETTINGS, job, "token")


async def expiry(stores: Stores) -> float:
    job = await stores.jobs.get("edit-1")
    assert job is not None
    assert job.lease is not None
    return job.lease.expires_at


@pytest.mark.parametrize("jump", [-3600.0, 0.0, 20.0])
async def test_a_lease_is_renewed_by_the_clock_that_does_not_jump(tmp_path: Path, jump: float) -> None:
    stores, clocks = open_stores(Settings(data_dir=tmp_path)), Clocks()
    hold = await take(stores, clocks)
    clocks.steady += 9
    clocks.wall += 9 + jump
    assert await hold.confirm() is None
    assert await expiry(stores) == 1031.0, "a third of the lease has not passed yet"
    clocks.steady += 2
    clocks.wall += 2
    assert await hold.confirm() is None
    assert await expiry(stores) == clocks.wall + 30
    await stores.close()


async def test_progress_is_written_once_per_interval(tmp_path: Path) -> None:
    stores, clocks = open_stores(Settings(data_dir=tmp_path)), Clocks()
    hold = await take(stores, clocks)
    written = []
    for second in range(25):
        clocks.steady, clocks.wall = 50.0 + second, 1001.0 + second
        hold.report(Progress(Stage.ENGINE, second, 25))
        await hold.confirm()
        job = await stores.jobs.get("edit-1")
        assert job is not None
        if job.progress is not None and job.progress.step not in written:
            written.append(job.progress.step)
    assert written == [0, 10, 20]
    await stores.close()


async def test_a_hold_that_another_worker_took_is_lost(tmp_path: Path) -> None:
    stores, clocks = open_stores(Settings(data_dir=tmp_path)), Clocks()
    hold = await take(stores, clocks)

    def usurp(job: Job | None, _document: Document | None) -> Write:
        assert job is not None
        return Write(transitions.claim(job, "other", 1040.0, SETTINGS))

    await stores.jobs.change("edit-1", SESSION, usurp)
    assert await hold.confirm() is Interruption.LOST
    assert not hold.is_committed
    assert await hold.end(transitions.obey) is None
    await stores.close()


async def test_what_others_write_does_not_put_off_the_renewal(tmp_path: Path) -> None:
    stores, clocks = open_stores(Settings(data_dir=tmp_path)), Clocks()
    hold = await take(stores, clocks)

    def join(delivery: str) -> Decide:
        def decide(job: Job | None, _document: Document | None) -> Write:
            assert job is not None
            return Write(transitions.join(job, make_job(), delivery))

        return decide

    for message in range(12):  # one more message for the same job every five seconds, for two leases long
        clocks.steady, clocks.wall = clocks.steady + 5, clocks.wall + 5
        await stores.jobs.change("edit-1", SESSION, join(f"joined-{message}"))
        assert await hold.confirm() is None
        assert await expiry(stores) > clocks.wall
    await stores.close()
