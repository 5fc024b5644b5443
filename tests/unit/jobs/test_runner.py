"""One worker with real stores and codecs and a scripted engine: every way a run can end."""

from __future__ import annotations

import asyncio
import contextlib
import io
import sqlite3
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serve_app.editing import edit
from serve_app.engines.protocol import Cancelled, Event, Failed, FillRequest, Queued
from serve_app.errors import EngineFailed, EngineUnavailable, StoreUnavailable
from serve_app.jobs import transitions
from serve_app.jobs.model import Job, Priority, Session, Status
from serve_app.jobs.store import Write
from serve_app.photos.store import ABSENT
from tests.engines import FakeEngine, paint
from tests.photos import encode, make_mask, make_photo
from tests.workbench import SESSION, open_workbench


async def test_an_edit_writes_both_results_and_the_session(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}) as bench:
        await bench.put_session()
        job = await bench.finish(await bench.submit(published_at=1.0))
        assert (job.status, job.attempts) == (Status.COMPLETED, 1)
        assert set(job.stage_seconds) == {
            "queue", "download", "decode", "plan", "engine", "composite", "encode", "upload"
        }  # fmt: skip
        assert job.cost == pytest.approx(2.0 * 0.71 / 3600)
        document = await bench.backend.read(SESSION)
        assert document is not None
        assert document["processingStatus"] == "completed"
        assert document["editedImagePath"] == "users/user/sessions/session/edited.jpg"
        assert document["createdBy"] == "pawfect"
        edited = Image.open(io.BytesIO(await bench.backend.download(SESSION.edited_path)))
        preview = Image.open(io.BytesIO(await bench.backend.download(SESSION.preview_path)))
        assert (edited.format, edited.size, preview.format) == ("JPEG", (160, 120), "JPEG")
        assert np.asarray(edited)[40, 70].max() < 10, "the engine painted the masked part black"
        assert np.asarray(edited)[100, 20].max() > 10, "what the mask leaves out is kept"
        assert bench.sink.value("pawfect_jobs_total", outcome="completed", quality="draft") == 1
        assert bench.sink.value("pawfect_gpu_seconds_total", engine="draft") == 2.0
        assert bench.sink.value("pawfect_stage_seconds_count", stage="decode", quality="draft") == 1
        assert bench.sink.value("pawfect_end_to_end_seconds_count", outcome="completed", quality="draft") == 1


BAD_PHOTOS = {
    "a text file": b"this is no photo\n" * 50,
    "a truncated photo": make_photo(400, 300)[:3000],
    "nothing at all": b"",
    "a bomb": encode(Image.new("1", (20000, 20000)), "PNG"),
}


@pytest.mark.parametrize("photo", BAD_PHOTOS.values(), ids=BAD_PHOTOS.keys())
async def test_a_bad_photo_fails_once_with_a_sentence_and_a_dead_letter(tmp_path: Path, photo: bytes) -> None:
    engine = FakeEngine()
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        await bench.backend.create(SESSION, photo, make_mask())
        job = await bench.finish(await bench.submit(message="eyJ9"))
        assert (job.status, job.attempts, engine.requests) == (Status.FAILED, 1, [])
        assert "original.jpg" in (job.error or "")
        await bench.until(job, closed=True)
        (letter,) = await bench.stores.dead_letters.latest(10)
        assert (letter.reason, letter.message, letter.data) == (job.error_code, job.error, "eyJ9")
        assert letter.attributes["sessionId"] == "session"
        document = await bench.backend.read(SESSION)
        assert document is not None
        assert (document["processingStatus"], document["errorMessage"]) == ("failed", job.error)


async def test_an_empty_mask_is_said_to_be_empty(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}) as bench:
        await bench.put_session(mask=make_mask(box=None))
        job = await bench.finish(await bench.submit())
        assert job.error_code == "mask_empty"


async def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}) as bench:
        await bench.put_session(photo=make_photo() + bytes(60 * 2**20))
        job = await bench.finish(await bench.submit())
        assert job.error_code == "photo_too_large"
        assert "52428800 are accepted" in (job.error or "")


@pytest.mark.parametrize(
    ("photo", "mask", "missing"), [(None, make_mask(), "original.jpg"), (make_photo(), None, "mask_auto.png")]
)
async def test_a_missing_object_is_named(tmp_path: Path, photo: bytes | None, mask: bytes | None, missing: str) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}) as bench:
        await bench.backend.create(SESSION, photo, mask)
        job = await bench.finish(await bench.submit())
        assert job.error_code == "object_missing"
        assert missing in (job.error or "")


async def test_a_missing_session_fails_and_creates_no_document(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}) as bench:
        job = await bench.finish(await bench.submit())
        assert job.error_code == "session_missing"
        assert await bench.backend.read(SESSION) is None


async def test_a_quality_that_is_not_offered_is_refused_not_replaced(tmp_path: Path) -> None:
    engine = FakeEngine()
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        await bench.put_session()
        job = await bench.finish(await bench.submit(quality="high"))
        assert job.error == "Quality 'high' is not offered here; offered are auto, draft."
        assert engine.requests == []


async def test_a_transient_failure_runs_again_with_the_same_seed(tmp_path: Path) -> None:
    engine = FakeEngine(EngineFailed("boom"), [Failed("engine_failed", "bang", retryable=True)])
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        await bench.put_session()
        job = await bench.finish(await bench.submit())
        assert (job.status, job.attempts, job.transient_failures) == (Status.COMPLETED, 3, 2)
        assert len({request.seed for request in engine.requests}) == 1
        assert bench.sink.value("pawfect_attempts_total", result="retried") == 2


async def test_five_transient_failures_are_enough(tmp_path: Path) -> None:
    engine = FakeEngine(*(EngineFailed(f"boom {i}") for i in range(10)))
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        await bench.put_session()
        job = await bench.finish(await bench.submit())
        assert (job.status, job.attempts, job.error_code) == (Status.FAILED, 5, "engine_failed")
        assert "boom 4" in (job.error or "")


async def test_an_engine_that_is_not_there_is_waited_for_without_counting(tmp_path: Path) -> None:
    engine = FakeEngine(*(EngineUnavailable("loading") for _ in range(8)), [Cancelled()])
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        await bench.put_session()
        job = await bench.finish(await bench.submit())
        assert (job.status, job.attempts, job.transient_failures) == (Status.COMPLETED, 10, 0)


async def test_an_engine_that_rejects_fails_at_once(tmp_path: Path) -> None:
    engine = FakeEngine([Failed("nsfw", "The prompt is refused.", retryable=False)])
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        await bench.put_session()
        job = await bench.finish(await bench.submit())
        assert (job.status, job.attempts, job.error) == (Status.FAILED, 1, "The prompt is refused.")


async def test_an_image_of_the_wrong_size_is_the_engines_fault(tmp_path: Path) -> None:
    def shrink(request: FillRequest) -> object:
        result = paint(request)
        return type(result)((result.images[0][:16],), 0.0, 0.0)

    engine = FakeEngine(shrink)  # type: ignore[arg-type]
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        await bench.put_session()
        job = await bench.finish(await bench.submit())
        assert (job.status, job.attempts) == (Status.COMPLETED, 2)


async def test_a_run_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with open_workbench(tmp_path, {"draft": engine}, stage_timeout_s=0.2, max_transient=2) as bench:
        await bench.put_session()
        job = await bench.finish(await bench.submit())
        assert (job.status, job.error_code, job.attempts, engine.left) == (Status.FAILED, "stage_timeout", 2, 2)


async def test_waiting_for_an_engine_has_no_limit_but_the_deadline(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": Patient()}, stage_timeout_s=0.05) as bench:
        await bench.put_session()
        job = await bench.finish(await bench.submit())
        assert (job.status, job.attempts) == (Status.COMPLETED, 1)


class Patient(FakeEngine):
    async def fill(self, request: FillRequest) -> AsyncGenerator[Event]:
        yield Queued(1)
        await asyncio.sleep(0.5)
        async for event in super().fill(request):
            yield event


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


async def test_a_deadline_ends_a_run(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        await bench.put_session()
        job = await bench.finish(await bench.submit(deadline_s=0.5))
        assert (job.status, job.error_code, engine.left) == (Status.FAILED, "deadline_exceeded", 1)


async def test_a_queued_job_past_its_deadline_is_swept(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}, start=False) as bench:
        await bench.put_session()
        job = await bench.submit(deadline_s=0.01)
        await asyncio.sleep(0.02)
        await bench.reconciler.sweep()
        ended = await bench.finish(job)
        assert (ended.status, ended.error_code, ended.closed) == (Status.FAILED, "deadline_exceeded", True)
        await bench.reconciler.sweep()
        assert bench.sink.value("pawfect_jobs_queued") == 0


async def test_a_running_job_is_cancelled_and_writes_nothing(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        await bench.put_session()
        job = await bench.until(await bench.submit(), status=Status.PROCESSING)
        while not engine.requests:
            await asyncio.sleep(0.01)
        await bench.service.cancel(job.id)
        ended = await bench.finish(job)
        assert (ended.status, engine.left) == (Status.CANCELLED, 1)
        assert await bench.backend.generation(SESSION.edited_path) == ABSENT
        document = await bench.backend.read(SESSION)
        assert document is not None
        assert (document["processingStatus"], document["errorMessage"]) == ("failed", "cancelled")


async def test_a_new_mask_supersedes_the_job_under_way(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        await bench.put_session()
        old = await bench.until(await bench.submit("m1"), status=Status.PROCESSING)
        await bench.put_session(mask=make_mask(box=(10, 10, 30, 30)))
        new = await bench.submit("m2")
        assert new.id != old.id
        ended = await bench.finish(old)
        assert (ended.status, ended.error) == (Status.CANCELLED, "superseded by a newer request")
        engine.gate.set()
        assert (await bench.finish(new)).status is Status.COMPLETED
        document = await bench.backend.read(SESSION)
        assert document is not None
        assert (document["jobId"], document["processingStatus"]) == (new.id, "completed")


async def test_an_original_replaced_after_the_message_is_not_edited(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}, start=False) as bench:
        await bench.put_session()
        job = await bench.submit()
        await bench.backend.create(SESSION, make_photo(seed=1), None, await bench.backend.read(SESSION))
        bench.runner.start()
        ended = await bench.finish(job)
        assert ended.error_code == "object_replaced"


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
        assert bench.sink.value("pawfect_jobs_total", outcome="failed", quality="draft") == 5
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
        assert bench.sink.value("pawfect_jobs_queued") == 1
        assert (await bench.stores.jobs.get(jobs[1].id)).closed  # type: ignore[union-attr]
        assert not (await bench.stores.jobs.get(jobs[0].id)).closed  # type: ignore[union-attr]


async def test_progress_reaches_the_session(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        await bench.put_session()
        job = await bench.submit()
        async with asyncio.timeout(20):
            while not ((await bench.backend.read(SESSION) or {}).get("progress") or {}).get("steps"):
                await asyncio.sleep(0.01)
        engine.gate.set()
        await bench.finish(job)
        document = await bench.backend.read(SESSION)
        assert document is not None
        assert document["progress"] is None
