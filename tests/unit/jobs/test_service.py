"""Submitting is idempotent: what repeats, joins, starts anew, and what answers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from serve_app.errors import Conflict, InvalidRequest, NotFound
from serve_app.jobs import transitions
from serve_app.jobs.model import Job, Priority, Session, Status
from serve_app.jobs.store import Write
from tests.engines import FakeEngine
from tests.photos import make_mask
from tests.workbench import SESSION, open_workbench

CANCELLED = {"outcome": "cancelled", "quality": "draft", "engine": "draft", "source": "session", "fault": "none"}


async def test_concurrent_duplicates_are_one_edit(tmp_path: Path) -> None:
    engine = FakeEngine()
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        await bench.put_session()
        jobs = await asyncio.gather(*(bench.submit("m1") for _ in range(10)))
        assert len({job.id for job in jobs}) == 1
        ended = await bench.finish(jobs[0])
        assert (ended.attempts, ended.deliveries, len(engine.requests)) == (1, ("m1",), 1)


async def test_a_completed_job_is_not_done_again_even_for_a_new_message(tmp_path: Path) -> None:
    engine = FakeEngine()
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        await bench.put_session()
        first = await bench.finish(await bench.submit("m1"))
        generation = await bench.backend.generation(SESSION.edited_path)
        again = await bench.submit("m2")
        assert (again.id, again.status, again.deliveries) == (first.id, Status.COMPLETED, ("m1", "m2"))
        assert await bench.backend.generation(SESSION.edited_path) == generation
        assert len(engine.requests) == 1


async def test_a_failed_job_answers_its_delivery_and_runs_again_for_a_new_one(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}) as bench:
        await bench.put_session(mask=make_mask(box=None))
        failed = await bench.finish(await bench.submit("m1"))
        repeat = await bench.submit("m1")
        assert (repeat.status, repeat.version) == (
            Status.FAILED,
            (await bench.until(failed, closed=True)).version,
        )
        again = await bench.submit("m2")
        assert (again.id, again.status) == (failed.id, Status.QUEUED)
        ended = await bench.finish(again)
        assert (ended.status, ended.deliveries) == (Status.FAILED, ("m1", "m2"))
        await bench.until(ended, closed=True)
        assert len(await bench.stores.dead_letters.latest(10)) == 2


async def test_a_new_mask_or_prompt_is_a_new_job(tmp_path: Path) -> None:
    engine = FakeEngine()
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        await bench.put_session()
        first = await bench.finish(await bench.submit("m1"))
        other_prompt = await bench.finish(await bench.submit("m2", prompt="a red collar"))
        await bench.put_session(mask=make_mask(box=(10, 10, 30, 30)))
        other_mask = await bench.finish(await bench.submit("m3"))
        assert len({first.id, other_prompt.id, other_mask.id}) == 3
        assert [request.prompt for request in engine.requests].count("a red collar") == 1


async def test_going_back_to_earlier_parameters_does_the_edit_again(tmp_path: Path) -> None:
    engine = FakeEngine()
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        await bench.put_session()
        first = await bench.finish(await bench.submit("m1"))
        await bench.finish(await bench.submit("m2", prompt="a red collar"))
        back = await bench.submit("m3")
        assert (back.id, back.status) == (first.id, Status.QUEUED)
        assert (await bench.finish(back)).status is Status.COMPLETED
        assert len(engine.requests) == 3


async def test_a_repeat_of_an_older_message_does_not_undo_a_newer_one(tmp_path: Path) -> None:
    engine = FakeEngine()
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        await bench.put_session()
        await bench.finish(await bench.submit("m1"))
        newer = await bench.finish(await bench.submit("m2", prompt="a red collar"))
        await bench.submit("m1")
        document = await bench.backend.read(SESSION)
        assert document is not None
        assert document["jobId"] == newer.id
        assert len(engine.requests) == 2


async def test_joining_makes_a_waiting_job_as_urgent_as_its_most_urgent_message(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}, start=False) as bench:
        await bench.put_session()
        await bench.submit("m1", priority=Priority.LOW)
        joined = await bench.submit("m2", priority=Priority.URGENT)
        assert joined.priority is Priority.URGENT
        assert (await bench.submit("m3")).priority is Priority.URGENT


async def test_a_queued_job_is_cancelled_at_once_and_a_new_message_revives_it(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}, start=False) as bench:
        await bench.put_session()
        job = await bench.submit("m1")
        assert (await bench.service.cancel(job.id)).status is Status.CANCELLED
        with pytest.raises(Conflict, match="already cancelled"):
            await bench.service.cancel(job.id)
        assert (await bench.submit("m1")).status is Status.CANCELLED
        assert (await bench.submit("m2")).status is Status.QUEUED


async def test_parameters_are_resolved_when_the_job_comes(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}, start=False) as bench:
        await bench.put_session()
        plain = (await bench.submit("m1")).parameters
        assert (plain.quality, plain.steps, plain.guidance_scale) == ("draft", 1, 0.0)
        assert plain.prompt.startswith("seamless natural background")
        assert (await bench.submit("m2", quality="auto")).parameters == plain
        high = (await bench.submit("m3", quality="high", seed=7)).parameters
        assert (high.steps, high.guidance_scale, high.seed) == (28, 30.0, 7)
        assert (await bench.submit("m4", quality="high", steps=4, guidance_scale=0)).parameters.guidance_scale == 0
        with pytest.raises(InvalidRequest, match="accepted are auto, draft, low, medium, high"):
            await bench.submit("m5", quality="ultra")


async def test_unknown_jobs_and_sessions_are_not_found(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}, start=False) as bench:
        with pytest.raises(NotFound, match="no job edit-1"):
            await bench.service.cancel("edit-1")
        with pytest.raises(NotFound, match="no session nope of user user"):
            await bench.service.find_session(Session("user", "nope"))
        assert await bench.service.wait("edit-1", 1) is None


async def test_waiting_ends_with_its_time(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}, start=False) as bench:
        await bench.put_session()
        job = await bench.submit()
        assert await bench.service.wait(job.id, 0.05) is None


async def test_when_work_stops_only_those_wait_on_whose_job_is_running(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with open_workbench(tmp_path, {"draft": engine}, slots=2, urgent_slots=1) as bench:
        other = Session("user", "other")
        await bench.put_session()
        await bench.put_session(session=other)
        running = await bench.until(await bench.submit(), status=Status.PROCESSING)
        queued = await bench.submit(session=other)
        waits = [asyncio.create_task(bench.service.wait(job.id, 20)) for job in (running, queued)]
        await asyncio.sleep(0.05)
        bench.service.stop_waiting()
        assert await asyncio.wait_for(waits[1], 10) is None
        assert not waits[0].done()
        engine.gate.set()
        ended = await asyncio.wait_for(waits[0], 10)
        assert ended is not None
        assert ended.status is Status.COMPLETED


async def test_a_message_about_a_done_edit_shows_it_again(tmp_path: Path) -> None:
    """The app's backend sets "processing" before it publishes, or writes its document anew without our fields."""
    engine = FakeEngine()
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        await bench.put_session()
        await bench.finish(await bench.submit("m1"))
        done = await bench.backend.read(SESSION)
        assert done is not None
        for delivery in ("m2", "m1"):
            for damage in ({**done, "processingStatus": "processing", "errorMessage": "old"}, {"petName": "Rex"}):
                await bench.backend.create(SESSION, None, None, damage)
                await bench.submit(delivery)
                document = await bench.backend.read(SESSION)
                assert document is not None
                assert (document["processingStatus"], document["errorMessage"]) == ("completed", None)
                assert document["editedImagePath"] == SESSION.edited_path
        assert len(engine.requests) == 1


async def test_an_older_message_that_comes_late_does_not_take_the_session_over(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        await bench.put_session()
        newer = await bench.submit("m2", prompt="a red collar", published_at=200.0)
        older = await bench.submit("m1", published_at=100.0)
        assert (older.status, older.error) == (Status.CANCELLED, "superseded by a newer request")
        engine.gate.set()
        assert (await bench.finish(newer)).status is Status.COMPLETED
        document = await bench.backend.read(SESSION)
        assert document is not None
        assert document["jobId"] == newer.id
        assert bench.sink.value("pawfect_jobs_total", **CANCELLED) == 1


async def test_a_cancelled_queued_job_is_counted(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}, start=False) as bench:
        await bench.put_session()
        await bench.service.cancel((await bench.submit("m1")).id)
        assert bench.sink.value("pawfect_jobs_total", **CANCELLED) == 1


async def test_a_failure_is_dead_lettered_before_it_starts_over(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}, start=False) as bench:
        await bench.put_session()
        job = await bench.submit("m1")

        def fail(found: Job | None, _document: object) -> Write:  # as a worker does that dies before it closes the job
            assert found is not None
            return Write(transitions.fail(found, 5.0, "mask_empty", "Nothing is white."))

        await bench.stores.jobs.change(job.id, SESSION, fail)
        again = await bench.submit("m2")
        assert again.status is Status.QUEUED
        (letter,) = await bench.stores.dead_letters.latest(10)
        assert letter.reason == "mask_empty"


async def test_a_message_that_joins_gives_its_own_time(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}, start=False) as bench:
        await bench.put_session()
        first = await bench.submit("m1", deadline_s=1)
        joined = await bench.submit("m2", deadline_s=100)
        assert joined.deadline_at >= first.deadline_at + 98
