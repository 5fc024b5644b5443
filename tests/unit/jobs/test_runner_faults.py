"""One worker with real stores when things go wrong around it: outages, dead and hung workers, full houses."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from serve_app.editing import edit
from serve_app.engines.protocol import Event, Failed
from serve_app.errors import StoreUnavailable
from serve_app.jobs import run, transitions
from serve_app.jobs.model import Job, Priority, Session, Status
from serve_app.jobs.store import Write
from serve_app.photos.store import ABSENT
from tests.engines import FakeEngine
from tests.photos import make_mask, make_photo
from tests.workbench import SESSION, open_workbench

FAILED = {"outcome": "failed", "quality": "draft", "engine": "draft", "source": "session", "fault": "service"}


async def test_photos_that_hang_in_their_decoder_do_not_cost_others_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    prepare = edit.prepare

    def hang(original: bytes, *rest: Any, **more: Any) -> edit.Prepared:
        if len(original) < 5000:
            go_on.wait(10)
        return prepare(original, *rest, **more)

    monkeypatch.setattr(edit, "prepare", hang)
    poison = [Session("user", f"poison{i}") for i in range(2)]
    async with open_workbench(
        tmp_path, {"draft": FakeEngine()}, slots=5, stage_timeout_s=0.3, max_transient=1
    ) as bench:
        for session in poison:
            await bench.put_session(photo=make_photo(32, 32), mask=make_mask(32, 32, (0, 0, 9, 9)), session=session)
        hung = [await bench.submit(session=session) for session in poison]
        for job in hung:
            await bench.until(job, status=Status.PROCESSING)
        await bench.put_session()
        innocent = await bench.submit()
        for job in hung:
            assert (await bench.finish(job)).error_code == "stage_timeout"
        assert bench.threads.busy_seconds() > 0.2
        found = await bench.stores.jobs.get(innocent.id)
        assert found is not None
        assert (found.status, found.transient_failures) == (Status.PROCESSING, 0)
        go_on.set()
        assert (await bench.finish(innocent)).status is Status.COMPLETED


async def test_a_queued_job_past_its_deadline_is_swept(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}, start=False) as bench:
        await bench.put_session()
        job = await bench.submit(deadline_s=0.01)
        await asyncio.sleep(0.02)
        await bench.reconciler.sweep()
        ended = await bench.finish(job)
        assert (ended.status, ended.error_code, ended.closed) == (Status.FAILED, "deadline_exceeded", True)
        await bench.reconciler.sweep()


async def test_a_worker_that_lost_its_lease_records_nothing(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with open_workbench(tmp_path, {"draft": engine}, lease_s=0.4) as bench:
        await bench.put_session()
        job = await bench.until(await bench.submit(), status=Status.PROCESSING)

        def usurp(found: Job | None, _document: object) -> object:
            from serve_app.jobs.model import Lease
            from serve_app.jobs.store import Write

            assert found is not None
            assert found.lease is not None
            return Write(found.evolve(lease=Lease("usurper", found.lease.expires_at + 60)))

        await bench.stores.jobs.change(job.id, SESSION, usurp)  # type: ignore[arg-type]
        async with asyncio.timeout(20):
            while engine.left == 0:
                await asyncio.sleep(0.01)
            while bench.sink.value("pawfect_attempts_total", result="lost") != 1:
                await asyncio.sleep(0.01)
        found = await bench.stores.jobs.get(job.id)
        assert found is not None
        assert found.lease is not None
        assert (found.status, found.lease.token) == (Status.PROCESSING, "usurper")
        assert await bench.backend.generation(SESSION.edited_path) == ABSENT


async def test_a_crashed_workers_job_is_taken_over_after_its_lease(tmp_path: Path) -> None:
    hung = FakeEngine()
    hung.gate.clear()
    async with open_workbench(tmp_path, {"draft": hung}, lease_s=0.5) as first:
        await first.put_session()
        job = await first.until(await first.submit(), status=Status.PROCESSING)
        for task in list(first.runner._active):  # a SIGKILL: nothing is written any more
            task.remove_done_callback(first.runner._forget)
            first.runner._active.pop(task)._store = None  # type: ignore[assignment]
        first.runner._draining = True
        async with open_workbench(tmp_path, {"draft": FakeEngine()}, lease_s=0.5) as second:
            ended = await second.finish(job)
            assert (ended.status, ended.attempts, ended.crashes) == (Status.COMPLETED, 2, 1)


async def test_urgent_jobs_do_not_take_the_places_of_normal_ones(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with open_workbench(tmp_path, {"draft": engine}, slots=4, urgent_slots=2) as bench:
        sessions = [Session("user", f"s{i}") for i in range(3)]
        for session in sessions:
            await bench.put_session(session=session)
        for session in sessions[:2]:
            await bench.until(await bench.submit(session=session, priority=Priority.URGENT), status=Status.PROCESSING)
        await bench.until(await bench.submit(session=sessions[2]), status=Status.PROCESSING)
        engine.gate.set()


async def test_a_result_being_written_is_finished_not_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}) as bench:
        await bench.put_session()
        writing, go_on = asyncio.Event(), asyncio.Event()
        write = bench.stores.photos.write

        async def slow(*arguments: Any, **more: Any) -> str:
            writing.set()
            await go_on.wait()
            return await write(*arguments, **more)

        monkeypatch.setattr(bench.stores.photos, "write", slow)
        job = await bench.submit()
        await asyncio.wait_for(writing.wait(), 10)
        assert (await bench.service.cancel(job.id)).cancel_requested
        await asyncio.sleep(0.3)
        go_on.set()
        assert (await bench.finish(job)).status is Status.COMPLETED
        assert await bench.backend.generation(SESSION.preview_path) != ABSENT


async def test_several_sweepers_close_and_count_an_end_once(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}, start=False) as bench:
        sessions = [Session("user", f"s{i}") for i in range(5)]
        for session in sessions:
            await bench.put_session(session=session)
            await bench.submit(session=session, deadline_s=0.01)
        await asyncio.sleep(0.02)
        await asyncio.gather(*(bench.reconciler.sweep() for _ in range(4)))
        assert bench.sink.value("pawfect_jobs_total", **FAILED) == 5
        assert bench.sink.value("pawfect_dead_letters_total", reason="deadline_exceeded") == 5
        assert len(await bench.stores.dead_letters.latest(100)) == 5


async def test_a_job_of_a_newer_version_does_not_stop_the_queue(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}, start=False) as bench:
        newer, ours = Session("user", "newer"), Session("user", "ours")
        for session in (newer, ours):
            await bench.put_session(session=session)
        foreign = await bench.submit(session=newer)
        with contextlib.closing(sqlite3.connect(tmp_path / "pawfect.db")) as connection:
            connection.execute(
                "UPDATE jobs SET schema = 99, body = json_set(body, '$.schema', 99) WHERE id = ?", (foreign.id,)
            )
            connection.commit()
        job = await bench.submit(session=ours)
        bench.runner.start()
        assert (await bench.finish(job)).status is Status.COMPLETED
        await bench.reconciler.sweep()


async def test_urgent_jobs_have_places_of_their_own(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with open_workbench(tmp_path, {"draft": engine}, slots=3, urgent_slots=1) as bench:
        sessions = [Session("user", f"s{i}") for i in range(5)]
        for session in sessions:
            await bench.put_session(session=session)
        normal = [await bench.submit(session=session) for session in sessions[:4]]
        await bench.until(normal[1], status=Status.PROCESSING)
        await asyncio.sleep(0.2)
        assert (await bench.stores.jobs.get(normal[2].id)).status is Status.QUEUED  # type: ignore[union-attr]
        urgent = await bench.submit(session=sessions[4], priority=Priority.URGENT)
        await bench.until(urgent, status=Status.PROCESSING)
        engine.gate.set()
        for job in (*normal, urgent):
            assert (await bench.finish(job)).status is Status.COMPLETED


async def test_an_outage_of_the_store_at_the_end_is_waited_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        await bench.put_session()
        job = await bench.until(await bench.submit(), status=Status.PROCESSING)
        change, refused = bench.stores.jobs.change, 0

        async def flaky(*arguments: object) -> object:
            nonlocal refused
            if refused < 2:
                refused += 1
                raise StoreUnavailable("out for lunch")
            return await change(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(bench.stores.jobs, "change", flaky)
        engine.gate.set()
        ended = await bench.finish(job)
        assert (ended.status, ended.attempts, refused) == (Status.COMPLETED, 1, 2)


async def test_a_claim_whose_answer_was_lost_is_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}, start=False, lease_s=0.3) as bench:
        await bench.put_session()
        job = await bench.submit()
        claim, lost = bench.stores.jobs.claim, 0

        async def lose_answers(*arguments: Any, **more: Any) -> Job | None:
            nonlocal lost
            taken = await claim(*arguments, **more)
            if taken is not None and lost < 4:
                lost += 1
                raise StoreUnavailable("no answer")
            return taken

        monkeypatch.setattr(bench.stores.jobs, "claim", lose_answers)
        bench.runner.start()
        ended = await bench.finish(job, 30)
        assert (ended.status, ended.crashes, lost) == (Status.COMPLETED, 0, 4)


async def test_an_outage_longer_than_the_lease_costs_the_worker_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with open_workbench(tmp_path, {"draft": engine}, lease_s=0.6) as bench:
        await bench.put_session()
        job = await bench.until(await bench.submit(), status=Status.PROCESSING)
        while not engine.requests:
            await asyncio.sleep(0.01)
        change, claim, is_out = bench.stores.jobs.change, bench.stores.jobs.claim, True

        def interrupt(call: Any) -> Any:
            async def flaky(*arguments: Any, **more: Any) -> Any:
                if is_out:
                    raise StoreUnavailable("out for lunch")
                return await call(*arguments, **more)

            return flaky

        monkeypatch.setattr(bench.stores.jobs, "change", interrupt(change))
        monkeypatch.setattr(bench.stores.jobs, "claim", interrupt(claim))
        await asyncio.sleep(1.5)
        is_out = False
        bench.runner.nudge()
        await asyncio.sleep(0.5)
        engine.gate.set()
        ended = await bench.finish(job)
        assert (ended.status, ended.attempts, ended.crashes) == (Status.COMPLETED, 1, 0)
        assert len(engine.requests) == 1


async def test_a_letter_that_cannot_be_written_does_not_hold_up_other_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}, start=False) as bench:
        sessions = [Session("user", name) for name in ("failed", "cancelled", "queued")]
        jobs = []
        for session in sessions:
            await bench.put_session(session=session)
            jobs.append(await bench.submit(session=session))

        def end(how: Any) -> Any:
            return lambda job, _document: Write(how(job))

        await bench.stores.jobs.change(
            jobs[0].id, sessions[0], end(lambda job: transitions.fail(job, 5.0, "mask_empty", "Nothing is white."))
        )
        await bench.stores.jobs.change(
            jobs[1].id, sessions[1], end(lambda job: transitions.cancel(job, 5.0, "cancelled"))
        )

        async def refuse(_letter: object) -> bool:
            raise StoreUnavailable("no such topic")

        monkeypatch.setattr(bench.stores.dead_letters, "put", refuse)
        await bench.reconciler.sweep()
        assert (await bench.stores.jobs.backlog(0.0)).queued == 1
        assert (await bench.stores.jobs.get(jobs[1].id)).closed  # type: ignore[union-attr]
        assert not (await bench.stores.jobs.get(jobs[0].id)).closed  # type: ignore[union-attr]


FULL: list[Event] = [Failed("engine_full", "all 4 places are taken", retryable=True)]


async def test_a_job_waits_for_a_place_in_the_engine_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "FULL_PAUSE_S", 0.01)
    engine = FakeEngine(FULL, FULL, FULL)
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        await bench.put_session()
        ended = await bench.finish(await bench.submit())
        assert (ended.status, ended.attempts) == (Status.COMPLETED, 1), "claimed, downloaded and decoded once"
        assert len(engine.requests) == 4
        assert bench.sink.value("pawfect_attempts_total", result="postponed") is None


async def test_an_engine_that_stays_full_gives_the_job_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "FULL_PAUSE_S", 0.01)
    monkeypatch.setattr(run, "FULL_PATIENCE_S", 0.05)
    engine = FakeEngine(*[FULL] * 20)
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        await bench.put_session()
        ended = await bench.finish(await bench.submit())
        assert ended.status is Status.COMPLETED
        assert ended.attempts > 1
        assert (ended.crashes, ended.transient_failures) == (0, 0)


async def test_a_quality_that_has_just_been_configured_is_waited_for(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}, start=False) as bench:
        await bench.put_session()
        rows = dict(bench.settings.qualities)
        tuned = bench.settings.model_copy(update={"qualities": {**rows, "quick": rows["draft"]}})
        bench.service._settings = tuned  # the ingress has it, the Editor not yet
        job = await bench.submit(quality="quick")
        bench.lanes.start()
        await bench.until(job, transient_failures=1)
        bench.runner._editing.retune(tuned)
        assert (await bench.finish(job)).status is Status.COMPLETED
