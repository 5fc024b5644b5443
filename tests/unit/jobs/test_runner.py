"""One worker with real stores and codecs and a scripted engine: every way a run can end."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serve_app.engines.protocol import Cancelled, Event, Failed, FillRequest, Queued
from serve_app.errors import EngineFailed, EngineUnavailable
from serve_app.jobs.model import Status
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
        row = {"quality": "draft", "engine": "draft"}
        ended = {**row, "outcome": "completed", "source": "session"}
        assert bench.sink.value("pawfect_jobs_total", **ended, fault="none") == 1
        assert bench.sink.value("pawfect_gpu_seconds_total", engine="draft") == 2.0
        assert bench.sink.value("pawfect_stage_seconds_count", stage="decode", **row) == 1
        assert bench.sink.value("pawfect_end_to_end_seconds_count", **ended, start="unknown") == 1
        assert bench.sink.value("pawfect_cost_usd_total", **row) == job.cost


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


@pytest.mark.parametrize(
    ("code", "retryable", "attempts"),
    [("out_of_memory", True, 5), ("output_invalid", True, 5), ("request_rejected", False, 1)],
)
async def test_an_engines_reason_stays_the_jobs(tmp_path: Path, code: str, retryable: bool, attempts: int) -> None:
    """By it one tells whose fault it was."""
    engine = FakeEngine(*([Failed(code, "Why.", retryable=retryable)] for _ in range(attempts)))
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        await bench.put_session()
        job = await bench.finish(await bench.submit())
        assert (job.status, job.attempts, job.error_code) == (Status.FAILED, attempts, code)


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
    async def run(self, request: FillRequest) -> AsyncGenerator[Event]:
        yield Queued(1)
        await asyncio.sleep(0.5)
        async for event in super().run(request):
            yield event


async def test_a_deadline_ends_a_run(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        await bench.put_session()
        job = await bench.finish(await bench.submit(deadline_s=0.5))
        assert (job.status, job.error_code, engine.left) == (Status.FAILED, "deadline_exceeded", 1)


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
