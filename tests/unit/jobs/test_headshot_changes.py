"""Headshots whose photo changes or whose worker dies under way."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import StoreUnavailable
from serve_app.jobs import operations
from serve_app.jobs.headshot_orders import PhotoOrder
from serve_app.jobs.model import Job, Lane, Status
from serve_app.photos.store import ABSENT
from tests.engines import FakeEngine
from tests.headshot_orders import (
    KEY,
    OTHER,
    PHOTO,
    give,
    message,
    open_bench,
    order,
    put,
    read_output,
    show,
)
from tests.workbench import open_workbench

# -- photos that change ------------------------------------------------------------------------------------------------


async def test_a_photo_replaced_before_its_turn_is_the_one_that_is_made(tmp_path: Path) -> None:
    async with open_bench(tmp_path, start=False) as (bench, engine):
        engine.script = [give()]
        first = await put(bench)
        assert (await bench.headshots.submit_upload(message())).original_generation == first
        second = await put(bench, OTHER)
        assert (await bench.headshots.submit_upload(message())).original_generation == first, "the same message"
        job = await bench.headshots.submit_upload(message("m2"))
        assert (job.original_generation, job.deliveries) == (second, ("m1", "m2"))
        bench.lanes.runners[Lane.HEADSHOTS].start()
        assert (await bench.finish(job)).status is Status.COMPLETED
        assert [request.photo for request in engine.requests] == [OTHER]  # type: ignore[attr-defined]


async def test_a_photo_replaced_while_the_old_one_is_worked_on_wins(tmp_path: Path) -> None:
    async with open_bench(tmp_path) as (bench, engine):
        engine.script = [give(b" old"), give(b" new")]
        engine.gate.clear()
        await put(bench)
        job = await bench.until(await bench.headshots.submit_upload(message()), status=Status.PROCESSING)
        while not engine.requests:
            await asyncio.sleep(0.01)
        await put(bench, OTHER)
        again = await bench.headshots.submit_upload(message("m2"))
        assert (again.status, again.lease, again.progress) == (Status.QUEUED, None, None)
        bench.nudge()
        while len(engine.requests) < 2:
            await asyncio.sleep(0.01)
        engine.gate.set()
        ended = await bench.finish(job)
        assert (ended.status, ended.crashes, ended.transient_failures) == (Status.COMPLETED, 0, 0)
        assert await read_output(bench, job, "print") == b"print new"
        assert await read_output(bench, job, "preview") == b"preview new"
        assert (await bench.headshots.submit_upload(message("m3"))).status is Status.COMPLETED
        assert len(engine.requests) == 2


async def test_a_new_message_about_the_same_photo_joins_its_job(tmp_path: Path) -> None:
    async with open_bench(tmp_path) as (bench, engine):
        engine.script = [give()]
        engine.gate.clear()
        await put(bench)
        job = await bench.until(await bench.headshots.submit_upload(message()), status=Status.PROCESSING)
        joined = await bench.headshots.submit_upload(message("m2"))
        assert (joined.status, joined.lease is not None, joined.deliveries) == (Status.PROCESSING, True, ("m1", "m2"))
        engine.gate.set()
        assert (await bench.finish(job)).status is Status.COMPLETED
        assert len(engine.requests) == 1


async def test_a_photo_that_vanishes_while_it_waits_fails_with_a_sentence(tmp_path: Path) -> None:
    async with open_bench(tmp_path, start=False) as (bench, _):
        await put(bench)
        job = await bench.headshots.submit_upload(message())
        await bench.stores.photos.delete(f"headshots/originals/{KEY}")
        bench.lanes.runners[Lane.HEADSHOTS].start()
        ended = await bench.finish(job)
        assert (ended.status, ended.error_code) == (Status.FAILED, "object_missing")


async def test_the_lane_has_places_of_its_own(tmp_path: Path) -> None:
    """Two of them, for headshots of any priority."""
    async with open_bench(tmp_path, slots=3, urgent_slots=2) as (bench, engine):
        engine.script = [give(), give(), give()]
        engine.gate.clear()
        jobs = [await bench.headshots.submit_photo(order(key=str(index))) for index in range(3)]
        bench.nudge()
        for job in jobs[:2]:
            await bench.until(job, status=Status.PROCESSING)
        await asyncio.sleep(0.1)
        await bench.until(jobs[2], status=Status.QUEUED)
        assert len(engine.requests) == 2
        engine.gate.set()
        for job in jobs:
            assert (await bench.finish(job)).status is Status.COMPLETED


async def test_files_are_stored_as_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_bench(tmp_path) as (bench, engine):
        engine.script = [give()]
        write, kinds = bench.stores.photos.write, {}

        async def note(path: str, data: bytes, *, content_type: str, expected: str) -> str:
            kinds[path.rpartition("/")[2]] = content_type
            return await write(path, data, content_type=content_type, expected=expected)

        monkeypatch.setattr(bench.stores.photos, "write", note)
        wish = PhotoOrder("ann", PHOTO, "rex.webp", "image/webp")
        await bench.finish(await bench.headshots.submit_photo(wish))
        assert kinds == {"rex.webp": "image/webp", "print.png": "image/png", "preview.png": "image/png"}


async def test_an_edit_beside_a_headshot_keeps_its_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait for different engines; without its frame an edit's photo is decoded twice."""
    alone: list[bool] = []

    def note(job: Job, *rest: Any, keep_frame: bool) -> Any:
        alone.append(keep_frame)
        return operations.start(job, *rest, keep_frame=keep_frame)

    monkeypatch.setattr("serve_app.jobs.run.start", note)
    engine, edits = FakeEngine(give()), FakeEngine()
    async with open_workbench(tmp_path, {"headshots": engine, "draft": edits}) as bench:
        engine.gate.clear()
        headshot = await bench.headshots.submit_photo(order())
        while not engine.requests:
            await asyncio.sleep(0.01)
        await bench.put_session()
        assert (await bench.finish(await bench.submit())).status is Status.COMPLETED
        engine.gate.set()
        assert (await bench.finish(headshot)).status is Status.COMPLETED
    assert alone == [True, True]


# -- a worker that dies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [("print",), ("print", "preview"), ("preview",)])
async def test_what_a_dead_run_left_is_replaced(tmp_path: Path, left: tuple[str, ...]) -> None:
    async with open_bench(tmp_path, start=False) as (bench, engine):
        engine.script = [give(b" new")]
        job = await bench.headshots.submit_photo(order())
        for name in left:
            path = f"headshots/outputs/{job.id}/outputs/{name}.png"
            await bench.stores.photos.write(path, b"old", content_type="image/png", expected=ABSENT)
        bench.lanes.runners[Lane.HEADSHOTS].start()
        ended = await bench.finish(job)
        assert (ended.status, ended.attempts) == (Status.COMPLETED, 1)
        assert await read_output(bench, job, "print") == b"print new"
        assert await read_output(bench, job, "preview") == b"preview new"


async def test_an_outage_between_the_two_files_shows_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_bench(tmp_path) as (bench, engine):
        engine.script = [give(b" 1"), give(b" 2")]
        write, failed = bench.stores.photos.write, []

        async def write_or_fail(path: str, data: bytes, **options: str) -> str:
            if path.endswith("preview.png") and not failed:
                (job,) = await bench.stores.jobs.list_owned("ann", limit=5)
                failed.append(await show(bench, job))
                raise StoreUnavailable("It is out.")
            return await write(path, data, **options)

        monkeypatch.setattr(bench.stores.photos, "write", write_or_fail)
        ended = await bench.finish(await bench.headshots.submit_photo(order()))
        assert (ended.status, ended.attempts, ended.transient_failures) == (Status.COMPLETED, 2, 0)
        (shown,) = failed
        assert (shown["status"], shown["preview_url"], shown["quality"]) == ("processing", None, None)
        assert await read_output(bench, ended, "print") == b"print 2"
        assert await read_output(bench, ended, "preview") == b"preview 2"


async def test_a_headshot_is_done_though_nobody_signs_its_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_bench(tmp_path) as (bench, engine):
        engine.script = [give()]

        async def fail(*_arguments: str) -> object:
            raise StoreUnavailable("Nobody signs.")

        monkeypatch.setattr(bench.stores.links, "sign_download", fail)
        ended = await bench.finish(await bench.headshots.submit_photo(order()))
        assert (ended.status, ended.attempts) == (Status.COMPLETED, 1)
        shown = await show(bench, ended)
        assert (shown["status"], shown["preview_url"], shown["print_url"]) == ("done", None, None)
        assert shown["quality"] == ended.headshot.quality
