"""`/headshot` around the real stores, links and runner, from the photo to its links; the engine is scripted."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import pytest

from serve_app.clock import SystemClock
from serve_app.engines.protocol import Failed, HeadshotRequest
from serve_app.errors import EngineUnavailable
from serve_app.jobs.expiry import Expiry
from serve_app.jobs.model import Lane, Status
from serve_app.jobs.store import Write
from serve_app.settings_sections import PhotoSettings
from tests.api import expect_problem, open_api
from tests.calls import Call
from tests.headshots_api import (
    MESSAGE,
    POOR,
    PREVIEW,
    PRINT,
    QUALITY,
    REJECTED,
    fetch,
    find,
    give,
    open_upload,
    push,
    put_original,
    read_document,
    script,
    send,
    upload,
)
from tests.photos import make_photo


async def test_a_headshot_from_the_photo_to_the_links(tmp_path: Path) -> None:
    photo = make_photo()
    async with open_api(tmp_path) as api:
        script(api, give())
        response = await send(api, photo=photo)
        assert response.status_code == 200, response.text
        body = response.json()
        assert body.keys() == {"job_id", "preview_url", "print_url", "quality"}
        assert body["quality"] == QUALITY
        assert response.headers["cache-control"] == "no-store"
        assert await fetch(api, body["preview_url"]) == PREVIEW
        assert await fetch(api, body["print_url"]) == PRINT
        (request,) = api.engine.requests
        assert isinstance(request, HeadshotRequest)
        assert request.photo == photo
        folder, job_id = tmp_path / "photos" / "headshots", body["job_id"]
        assert (folder / "originals" / job_id / "original" / "Rex_me.jpg").read_bytes() == photo
        assert (folder / "outputs" / job_id / "outputs" / "preview.png").read_bytes() == PREVIEW
        assert (folder / "outputs" / job_id / "outputs" / "print.png").read_bytes() == PRINT
        shown = await read_document(api, job_id)
        assert (shown["status"], shown["quality"], shown["error"]) == ("done", QUALITY, None)
        assert await fetch(api, shown["preview_url"]) == PREVIEW
        assert await fetch(api, shown["print_url"]) == PRINT


async def test_files_are_sent_as_what_they_are_under_their_names(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        script(api, give())
        body = (await send(api)).json()
        shown = await read_document(api, body["job_id"])
        for source in (body, shown):
            for name in ("preview", "print"):
                response = await api.http.get(source[f"{name}_url"].replace("http://127.0.0.1:8000", ""))
                assert response.headers["content-type"] == "image/png"
                assert f'filename="{body["job_id"]}-{name}.png"' in response.headers["content-disposition"]
        assert shown["links_expire_at"] == pytest.approx(shown["finished_at"] + 3600, abs=60)


async def test_async_and_its_statuses(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        script(api, give())
        api.engine.gate.clear()
        response = await send(api, "/headshot-async")
        assert response.status_code == 202
        body = response.json()
        job_id = body["job_id"]
        assert body == {"job_id": job_id, "status": "queued"}
        assert response.headers["location"] == f"/headshot/{job_id}"
        await api.bench.until(await find(api, job_id), status=Status.PROCESSING)
        assert (await api.http.get(f"/headshot/{job_id}")).json() == {"job_id": job_id, "status": "processing"}
        api.engine.gate.set()
        await api.bench.finish(await find(api, job_id))
        done = (await api.http.get(f"/headshot/{job_id}")).json()
        assert done.keys() == {"job_id", "status", "preview_url", "print_url", "quality"}
        assert (done["status"], done["quality"]) == ("done", QUALITY)
        assert await fetch(api, done["print_url"]) == PRINT


async def test_a_job_waits_as_queued(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        job_id = (await send(api, "/headshot-async")).json()["job_id"]
        assert (await api.http.get(f"/headshot/{job_id}")).json() == {"job_id": job_id, "status": "queued"}


async def test_it_is_a_job_like_the_others(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        script(api, give())
        job_id = (await send(api)).json()["job_id"]
        view = (await api.http.get(f"/v1/jobs/{job_id}")).json()
        assert (view["operation"], view["status"], view["output_format"]) == ("PetHeadshot", "completed", "png")
        result = await api.http.get(f"/v1/jobs/{job_id}/result")
        assert (result.content, result.headers["content-type"]) == (PRINT, "image/png")
        listed = (await api.http.get("/v1/jobs")).json()["jobs"]
        assert [job["job_id"] for job in listed] == [job_id]


async def test_edits_do_not_hold_a_headshot_up(tmp_path: Path) -> None:
    """Every slot for images is taken by one that does not move."""
    async with open_api(tmp_path, slots=2, urgent_slots=1) as api:
        await api.bench.put_session()
        api.engine.gate.clear()
        await api.bench.submit()
        stuck = await api.bench.submit("m2", prompt="another")
        await api.bench.until(stuck, status=Status.QUEUED)
        job_id = (await send(api, "/headshot-async")).json()["job_id"]
        await api.bench.until(await find(api, job_id), status=Status.PROCESSING)
        api.engine.gate.set()


async def test_a_key_gives_the_same_headshot_again(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        script(api, give())
        first, second = [await send(api, headers={"Idempotency-Key": "k"}) for _ in range(2)]
        assert first.json()["job_id"] == second.json()["job_id"]
        assert len(api.engine.requests) == 1
        other = await send(api, photo=make_photo(seed=1), headers={"Idempotency-Key": "k"})
        expect_problem(other, 409, "conflict")


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "image/png"),
        ("image/png", "image/png"),
        ("application/json", "application/json"),
        ("text/html", "image/png"),
    ],
)
async def test_its_result_as_a_job_is_the_print(tmp_path: Path, accept: str, kind: str) -> None:
    async with open_api(tmp_path) as api:
        script(api, give())
        job_id = (await send(api)).json()["job_id"]
        result = await api.http.get(f"/v1/jobs/{job_id}/result", headers={"Accept": accept})
        assert (result.status_code, result.headers["content-type"]) == (200, kind)
        if kind == "application/json":
            body = result.json()
            assert (body["content_type"], base64.b64decode(body["image"])) == ("image/png", PRINT)
        else:
            assert result.content == PRINT
        tag = result.headers["etag"]
        known = await api.http.get(f"/v1/jobs/{job_id}/result", headers={"Accept": accept, "If-None-Match": tag})
        assert known.status_code == 304


async def test_as_a_job_it_is_cancelled_in_whatever_state_it_is(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False, push_wait_s=0.1) as api:
        script(api, give(), give())
        queued = (await send(api, "/headshot-async")).json()["job_id"]
        assert (await api.http.delete(f"/v1/jobs/{queued}")).json()["status"] == "cancelled"
        shown = (await api.http.get(f"/headshot/{queued}")).json()
        assert (shown["status"], shown["error_code"]) == ("failed", "cancelled")
        assert (await read_document(api, queued))["status"] == "failed"
        expect_problem(await api.http.delete(f"/v1/jobs/{queued}"), 409, "conflict")
        expect_problem(await api.http.get(f"/v1/jobs/{queued}/result"), 409, "conflict")
        api.engine.gate.clear()
        api.bench.lanes.runners[Lane.HEADSHOTS].start()
        running = (await send(api, "/headshot-async", headers={"Idempotency-Key": "k"})).json()["job_id"]
        await api.bench.until(await find(api, running), status=Status.PROCESSING)
        assert (await api.http.delete(f"/v1/jobs/{running}")).status_code == 202
        assert (await api.bench.finish(await find(api, running))).status is Status.CANCELLED
        again = expect_problem(await send(api, headers={"Idempotency-Key": "k"}), 409, "conflict")
        assert again["job_id"] == running
        assert "cancelled" in again["detail"]
        assert not (tmp_path / "photos" / "headshots" / "outputs").exists()
        api.engine.gate.set()
        done = (await send(api, "/headshot-async")).json()["job_id"]
        await api.bench.finish(await find(api, done))
        expect_problem(await api.http.delete(f"/v1/jobs/{done}"), 409, "conflict")
        assert (await api.http.get(f"/headshot/{done}")).json()["status"] == "done"
        jobs = (await api.http.get("/v1/jobs", params={"status": "cancelled"})).json()["jobs"]
        assert {job["job_id"] for job in jobs} == {queued, running}
        assert {job["model"] for job in jobs} == {"headshots"}


async def test_its_events_end_with_its_end(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        script(api, give())
        job_id = (await send(api)).json()["job_id"]
        events = (await api.http.get(f"/v1/jobs/{job_id}/events")).text
        assert "event: done" in events
        last = json.loads(next(line[6:] for line in events.splitlines() if line.startswith("data: ")))
        assert (last["job_id"], last["result_url"]) == (job_id, f"/v1/jobs/{job_id}/result")


async def test_what_is_about_to_be_forgotten_is_gone(tmp_path: Path) -> None:
    """Its files may be deleted at any moment: there are no links to them, whichever way they are asked for."""
    async with open_api(tmp_path) as api:
        script(api, give(), give())
        key = {"Idempotency-Key": "k"}
        job_id = (await send(api, headers=key)).json()["job_id"]
        job = await find(api, job_id)
        await api.bench.stores.jobs.change(
            job_id, None, lambda found, _: Write(found.evolve(expires_at=1.0)) if found else None
        )
        expect_problem(await api.http.get(f"/headshot/{job_id}"), 410, "gone")
        expect_problem(await send(api, headers=key), 410, "gone")
        expect_problem(await api.http.get(f"/v1/jobs/{job_id}/result"), 410, "gone")
        assert await Expiry(api.bench.stores.jobs, api.bench.stores.photos, SystemClock()).sweep() == 1
        expect_problem(await api.http.get(f"/headshot/{job_id}"), 404, "not_found")
        assert not (tmp_path / "photos" / "headshots").exists()
        again = await send(api, headers=key)
        assert (again.status_code, again.json()["job_id"]) == (200, job_id)
        assert await fetch(api, again.json()["print_url"]) == PRINT
        assert (await find(api, job_id)).created_at > job.created_at


@pytest.mark.parametrize("content", [b"text", b"GIF89a....", b"%PDF-1.7", b"<svg/>", b"\x00" * 64])
async def test_other_types_are_refused_before_anything_is_kept(tmp_path: Path, content: bytes) -> None:
    async with open_api(tmp_path) as api:
        for path in ("/headshot", "/headshot-async"):
            body = expect_problem(await send(api, path, content), 400, "unsupported_image")
            assert "JPEG, PNG, WebP or HEIC" in body["detail"]
        assert not (tmp_path / "photos" / "headshots").exists()


async def test_what_is_no_photo_is_said(tmp_path: Path) -> None:
    limits = PhotoSettings(max_bytes=2000)
    async with open_api(tmp_path, ingress={"photos": limits}) as api:
        expect_problem(await send(api, photo=b""), 422, "invalid_request")
        expect_problem(await api.http.post("/headshot", data={"a": "b"}), 415, "unsupported_media_type")
        expect_problem(await api.http.post("/headshot", files={"photo": b"x"}), 422, "invalid_request")
        extra = await api.http.post("/headshot", files={"file": make_photo(16, 16)}, data={"look": "blue"})
        assert "look" in expect_problem(extra, 422, "invalid_request")["detail"]
        expect_problem(await send(api, photo=make_photo(600, 600)), 413, "request_entity_too_large")


async def test_a_photo_that_gives_no_headshot(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        script(api, [REJECTED], [REJECTED])
        body = expect_problem(await send(api), 422, "headshot_rejected")
        assert (body["reasons"], body["quality"]) == (["image_blurry"], POOR)
        assert body["detail"] == REJECTED.message
        shown = (await api.http.get(f"/headshot/{body['job_id']}")).json()
        assert (shown["status"], shown["quality"], shown["error"]) == ("failed", POOR, REJECTED.message)
        assert shown["error_code"] == "headshot_rejected"
        assert "preview_url" not in shown
        assert (await read_document(api, body["job_id"]))["status"] == "failed"
        assert not (tmp_path / "photos" / "headshots" / "outputs").exists()


@pytest.mark.parametrize("code", ["photo_unreadable", "photo_too_large"])
async def test_a_photo_that_cannot_be_decoded_fails_once(tmp_path: Path, code: str) -> None:
    async with open_api(tmp_path) as api:
        script(api, [Failed(code, "It is damaged.", False)])
        expect_problem(await send(api), 422, code)
        assert len(api.engine.requests) == 1


async def test_a_headshot_that_is_not_done_in_its_time(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False, deadline_s=0.1) as api:
        waiting = asyncio.create_task(send(api))
        await asyncio.sleep(0.2)
        api.bench.lanes.runners[Lane.HEADSHOTS].start()
        body = expect_problem(await waiting, 503, "deadline_exceeded")
        shown = (await api.http.get(f"/headshot/{body['job_id']}")).json()
        assert (shown["status"], shown["error_code"]) == ("failed", "deadline_exceeded")


async def test_work_is_begun_at_once(tmp_path: Path) -> None:
    """However seldom an idle Editor looks for it."""
    async with open_api(tmp_path, claim_poll_s=60, push_wait_s=10) as api:
        script(api, give(), give())
        await asyncio.sleep(0.1)
        assert (await send(api)).status_code == 200
        await put_original(api)
        assert (await push(api, MESSAGE)).status_code == 204


@pytest.mark.parametrize("path", ["/headshot", "/headshot-async"])
async def test_a_compressed_body_is_refused(tmp_path: Path, path: str) -> None:
    async with open_api(tmp_path) as api:
        response = await send(api, path, headers={"Content-Encoding": "gzip"})
        assert "gzip" in expect_problem(response, 415, "unsupported_media_type")["detail"]


async def test_an_engine_that_is_away_is_waited_for(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        script(api, EngineUnavailable("It loads."), give())
        assert (await send(api)).status_code == 200


async def test_a_headshot_that_takes_long_is_accepted_instead(tmp_path: Path) -> None:
    async with open_api(tmp_path, push_wait_s=0.2) as api:
        api.engine.gate.clear()
        response = await send(api)
        assert response.status_code == 202
        assert response.headers["location"] == f"/headshot/{response.json()['job_id']}"
        api.engine.gate.set()


async def test_who_hangs_up_and_may_come_again_finds_the_headshot(tmp_path: Path) -> None:
    """By its key, or by its upload: cancelled, it would be so whenever it is asked for again."""
    async with open_api(tmp_path) as api:
        script(api, give(), give())
        ticket = await open_upload(api)
        await upload(api, ticket, make_photo())
        wish = {"job_id": ticket["job_id"], "orig_key": ticket["orig_key"]}
        for again in (
            {"files": {"file": ("a.jpg", make_photo())}, "headers": {"Idempotency-Key": "k"}},
            {"json": wish},
        ):
            api.engine.gate.clear()
            asked = len(api.engine.requests)
            call = Call(api, "/headshot", **again)
            await call.until(lambda asked=asked: len(api.engine.requests) > asked)  # type: ignore[misc]
            call.hang_up()
            await call.end()
            api.engine.gate.set()
            response = await api.http.post("/headshot", **again)  # type: ignore[arg-type]
            assert response.status_code == 200, response.text
        assert len(api.engine.requests) == 2


@pytest.mark.parametrize(("path", "status"), [("/headshot", Status.CANCELLED), ("/headshot-async", Status.COMPLETED)])
async def test_who_hangs_up_cancels_what_it_waits_for(tmp_path: Path, path: str, status: Status) -> None:
    async with open_api(tmp_path) as api:
        script(api, give())
        api.engine.gate.clear()
        call = Call(api, path, {"file": ("a.jpg", make_photo())})
        await call.until(lambda: bool(api.engine.requests))
        call.hang_up()
        await call.end()
        (job,) = await api.bench.stores.jobs.list_owned("local", limit=5)
        api.engine.gate.set()
        assert (await api.bench.finish(job)).status is status
