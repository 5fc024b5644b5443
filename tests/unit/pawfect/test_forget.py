"""A person's jobs and results are deleted when somebody asks for it; other people's stay."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pawfect.command import main
from serve_app.clock import SystemClock
from serve_app.jobs.erasure import Erasure
from serve_app.jobs.expiry import Expiry
from serve_app.jobs.model import Session, Status
from serve_app.photos.store import ABSENT
from tests.engines import FakeEngine
from tests.workbench import SESSION, Workbench, open_workbench

OTHER = Session("somebody-else", "session")


async def prepare(bench: Workbench) -> None:
    for session in (SESSION, OTHER):
        await bench.put_session(session=session)
        await bench.finish(await bench.submit(f"m-{session.user_id}", session))


def forget(data: Path, *arguments: str) -> int:
    return main(["forget", *arguments, "--data", str(data)])


async def count_jobs(bench: Workbench, session: Session) -> int:
    return len(await bench.stores.jobs.list_of_user(session.user_id, limit=10))


async def test_a_users_jobs_and_results_are_forgotten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}) as bench:
        await prepare(bench)
        photos = bench.stores.photos
        assert await asyncio.to_thread(forget, tmp_path, "--user", SESSION.user_id) == 0
        assert "nothing is forgotten without --yes" in capsys.readouterr().out
        assert await photos.stat(SESSION.edited_path) != ABSENT
        assert await asyncio.to_thread(forget, tmp_path, "--user", SESSION.user_id, "--yes") == 0
        assert "1 jobs forgotten, results of 1 deleted" in capsys.readouterr().out
        assert [await photos.stat(path) for path in (SESSION.edited_path, SESSION.preview_path)] == [ABSENT, ABSENT]
        assert await photos.stat(SESSION.original_path) != ABSENT, "the app's own"
        await Expiry(bench.stores.jobs, photos, SystemClock()).sweep()
        assert await count_jobs(bench, SESSION) == 0
        assert await count_jobs(bench, OTHER) == 1
        assert await photos.stat(OTHER.edited_path) != ABSENT
        assert await asyncio.to_thread(forget, tmp_path, "--user", SESSION.user_id, "--yes") == 0, "again: no harm"


async def test_a_job_that_runs_is_cancelled_first(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        await bench.put_session()
        job = await bench.submit()
        await bench.until(job, status=Status.PROCESSING)
        erasure = Erasure(bench.stores.jobs, bench.stores.photos, bench.service.cancel, SystemClock(), wait_s=20)
        erased = await erasure.erase([job])
        assert (erased.jobs, erased.left) == (1, ())
        found = await bench.stores.jobs.get(job.id)
        assert found is not None
        assert found.status is Status.CANCELLED
        assert found.expires_at is not None
        assert found.expires_at <= SystemClock().now()


async def test_what_does_not_end_in_time_is_said_and_kept(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}, start=False) as bench:
        await bench.put_session()
        job = await bench.submit()

        async def cancel(_job_id: str) -> object:
            return job

        erasure = Erasure(bench.stores.jobs, bench.stores.photos, cancel, SystemClock(), wait_s=0)  # type: ignore[arg-type]
        assert (await erasure.erase([job])).left == (job.id,)
        assert await count_jobs(bench, SESSION) == 1


def test_an_unknown_job_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert forget(tmp_path, "--job", "edit-none", "--yes") == 1
    assert "There is no job edit-none." in capsys.readouterr().out
