"""`/headshot` around the real stores, links and runner; the engine is scripted."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import HTTPConnection

from ingress.allowance import Allowance
from ingress.auth import GoogleTokens, VerifiedCaller, VerifiedSender
from ingress.keys import KeySet
from serve_app.clock import SystemClock
from serve_app.engines.protocol import Done, Event, Failed, HeadshotRequest, HeadshotResult, Step
from serve_app.errors import EngineUnavailable, Forbidden, Unauthenticated
from serve_app.jobs.expiry import Expiry
from serve_app.jobs.model import Job, Lane, Operation, Status
from serve_app.jobs.store import Write
from serve_app.settings_headshots import HeadshotSettings
from serve_app.settings_sections import CallerSettings, GoogleSettings, PhotoSettings
from tests.api import Api, expect_problem, open_api
from tests.calls import Call
from tests.photos import make_photo
from tests.tokens import serve_keys
from tests.workbench import SESSION

QUALITY = {"pass": True, "metrics": {"blur_var": 120.5, "h": 120, "w": 160}, "reasons": []}
POOR = {"pass": False, "metrics": {"blur_var": 3.5, "h": 120, "w": 160}, "reasons": ["image_blurry"]}
PREVIEW, PRINT = b"\x89PNG preview", b"\x89PNG print"
REJECTED = Failed("headshot_rejected", "The photo is blurred; send a sharper one.", False, POOR)
ANN, BOB = ({"caller": name, "Authorization": "Bearer x"} for name in ("ann", "bob"))
OPEN_DOOR = {"env": "gcp", "headshots": HeadshotSettings(anonymous=True)}


class Callers:
    """The header `caller` says who calls; without it, or with the name of nobody, nobody does."""

    def __init__(self, users: tuple[str, ...] = ("*",)) -> None:
        self._users = users

    async def verify_sender(self, connection: HTTPConnection) -> VerifiedSender:
        return VerifiedSender("push")

    async def verify_caller(self, connection: HTTPConnection) -> VerifiedCaller:
        if name := connection.headers.get("caller"):
            return VerifiedCaller(name, Allowance(self._users))
        raise Unauthenticated("nobody")


def give(quality: Mapping[str, Any] = QUALITY) -> list[Event]:
    result = HeadshotResult(preview=PREVIEW, print=PRINT, quality=quality, engine_seconds=1.5, gpu_seconds=0.0)
    return [Step(1, 5), Done(result)]


def script(api: Api, *turns: Any) -> None:
    api.engine.script = list(turns)


async def send(
    api: Api,
    path: str = "/headshot",
    photo: bytes | None = None,
    name: str = "Rex & me.jpeg",
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    content = make_photo() if photo is None else photo
    return await api.http.post(path, files={"file": (name, content)}, headers=headers)


async def push(api: Api, data: Any, message_id: str = "m1") -> httpx.Response:
    text = data if isinstance(data, str) else base64.b64encode(json.dumps(data).encode()).decode()
    return await api.http.post("/headshot/push", json={"message": {"messageId": message_id, "data": text}})


async def find(api: Api, job_id: str) -> Job:
    job = await api.bench.stores.jobs.get(job_id)
    assert job is not None
    return job


async def fetch(api: Api, url: str) -> bytes:
    response = await api.http.get(url.replace("http://127.0.0.1:8000", ""))
    assert response.status_code == 200, response.text
    return response.content


async def read_document(api: Api, job_id: str) -> dict[str, Any]:
    document: dict[str, Any] = await api.bench.stores.jobs.get_headshot(job_id)  # type: ignore[attr-defined]
    return document


# -- asking ------------------------------------------------------------------------------------------------------------


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


async def test_of_what_a_message_asked_for_the_original_alone_stays(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        script(api, give(), give())
        path = await put_original(api)
        await push(api, MESSAGE)
        await api.bench.stores.jobs.change(
            "perkie-1", None, lambda found, _: Write(found.evolve(expires_at=1.0)) if found else None
        )
        expect_problem(await api.http.get("/headshot/perkie-1"), 410, "gone")
        assert await Expiry(api.bench.stores.jobs, api.bench.stores.photos, SystemClock()).sweep() == 1
        expect_problem(await api.http.get("/headshot/perkie-1"), 404, "not_found")
        assert await api.bench.stores.jobs.get_headshot("perkie-1") is None  # type: ignore[attr-defined]
        assert await api.bench.stores.photos.stat(path)
        assert (await push(api, MESSAGE)).status_code == 204
        assert (await read_document(api, "perkie-1"))["status"] == "done"
        assert len(api.engine.requests) == 2


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


# -- who may see what --------------------------------------------------------------------------------------------------


async def test_nobody_sees_somebody_elses(tmp_path: Path) -> None:
    async with open_api(tmp_path, trust=Callers()) as api:
        script(api, give())
        job_id = (await send(api, headers=ANN)).json()["job_id"]
        assert (await api.http.get(f"/headshot/{job_id}", headers=ANN)).status_code == 200
        other = expect_problem(await api.http.get(f"/headshot/{job_id}", headers=BOB), 404, "not_found")
        unknown = expect_problem(await api.http.get("/headshot/headshot-none", headers=BOB), 404, "not_found")
        assert other["detail"].replace(job_id, "x") == unknown["detail"].replace("headshot-none", "x")
        expect_problem(await api.http.get(f"/headshot/{job_id}"), 401, "unauthenticated")


async def test_an_edit_is_no_headshot(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        await api.bench.put_session()
        job = await api.bench.submit()
        expect_problem(await api.http.get(f"/headshot/{job.id}"), 404, "not_found")


async def test_strangers_are_let_in_only_where_that_is_set(tmp_path: Path) -> None:
    async with open_api(tmp_path, trust=Callers()) as api:
        for path in ("/headshot", "/headshot-async"):
            expect_problem(await send(api, path), 401, "unauthenticated")
        wish = {"content_type": "image/png"}
        expect_problem(await api.http.post("/headshot/uploads", json=wish), 401, "unauthenticated")


async def test_a_stranger_gets_the_preview_alone(tmp_path: Path) -> None:
    async with open_api(tmp_path, trust=Callers(), ingress=OPEN_DOOR) as api:
        script(api, give())
        body = (await send(api)).json()
        assert body["print_url"] is None
        assert await fetch(api, body["preview_url"]) == PREVIEW
        shown = (await api.http.get(f"/headshot/{body['job_id']}")).json()
        assert "print_url" not in shown
        assert (await read_document(api, body["job_id"]))["print_url"] is None
        for_ann = (await api.http.get(f"/headshot/{body['job_id']}", headers=ANN)).json()
        assert await fetch(api, for_ann["print_url"]) == PRINT
        expect_problem(await api.http.get(f"/v1/jobs/{body['job_id']}/result"), 401, "unauthenticated")
        wrong = await send(api, headers={"Authorization": "Bearer wrong"})
        expect_problem(wrong, 401, "unauthenticated")


async def test_a_strangers_job_cannot_be_guessed(tmp_path: Path) -> None:
    async with open_api(tmp_path, trust=Callers(), ingress=OPEN_DOOR, start=False) as api:
        keyed = await send(api, "/headshot-async", headers={"Idempotency-Key": "1"})
        assert "token" in expect_problem(keyed, 422, "invalid_request")["detail"]
        ids = {(await send(api, "/headshot-async")).json()["job_id"] for _ in range(2)}
        assert len(ids) == 2


async def test_a_stranger_sees_no_callers_headshot(tmp_path: Path) -> None:
    async with open_api(tmp_path, trust=Callers(), ingress=OPEN_DOOR) as api:
        script(api, give())
        job_id = (await send(api, headers=ANN)).json()["job_id"]
        expect_problem(await api.http.get(f"/headshot/{job_id}"), 404, "not_found")


class Limited(Callers):
    """Each may send `submissions` in a minute, and have `jobs` under way."""

    def __init__(self, submissions: int | None, jobs: int | None) -> None:
        super().__init__()
        self._allowance = Allowance(("*",), submissions, jobs)

    async def verify_caller(self, connection: HTTPConnection) -> VerifiedCaller:
        return VerifiedCaller((await super().verify_caller(connection)).id, self._allowance)


@pytest.mark.parametrize(("submissions", "jobs"), [(1, None), (None, 1)])
async def test_a_caller_may_ask_for_so_much(tmp_path: Path, submissions: int | None, jobs: int | None) -> None:
    async with open_api(tmp_path, trust=Limited(submissions, jobs), start=False, push_wait_s=1) as api:
        assert (await send(api, "/headshot-async", headers=ANN)).status_code == 202
        for path in ("/headshot", "/headshot-async"):
            refused = await send(api, path, headers=ANN)
            expect_problem(refused, 429, "too_many_requests")
            assert int(refused.headers["retry-after"]) >= 1
        assert (await send(api, "/headshot-async", headers=BOB)).status_code == 202


async def test_looking_is_limited_as_well(tmp_path: Path) -> None:
    async with open_api(tmp_path, trust=Limited(1, None), start=False) as api:
        statuses = [(await api.http.get("/headshot/headshot-1", headers=ANN)).status_code for _ in range(21)]
        assert statuses == [404] * 20 + [429]


async def test_strangers_share_what_one_caller_may_ask_for(tmp_path: Path) -> None:
    given = {**OPEN_DOOR, "callers": CallerSettings(requests_per_minute=1)}
    async with open_api(tmp_path, trust=Callers(), ingress=given, start=False) as api:
        assert (await send(api, "/headshot-async")).status_code == 202
        expect_problem(await send(api, "/headshot-async"), 429, "too_many_requests")
        assert (await send(api, "/headshot-async", headers=ANN)).status_code == 202


async def test_a_local_service_has_no_open_door(tmp_path: Path) -> None:
    class Elsewhere(Callers):
        async def verify_caller(self, connection: HTTPConnection) -> VerifiedCaller:
            raise Forbidden("not from there")

    async with open_api(tmp_path, trust=Elsewhere(), ingress={**OPEN_DOOR, "env": "local"}) as api:
        expect_problem(await send(api), 403, "forbidden")


async def test_a_service_without_any_caller_takes_strangers(tmp_path: Path) -> None:
    """Only a shop's page and Pub/Sub: no Google caller is allowed and there are no keys."""
    with serve_keys() as keys:
        google = GoogleSettings(push_account="p@x", push_audience="https://x", certificates_url=keys.url)
        trust = GoogleTokens(google, KeySet(keys.url, 5.0, SystemClock()), SystemClock())
        async with open_api(tmp_path, trust=trust, ingress=OPEN_DOOR) as api:
            script(api, give())
            assert (await send(api)).status_code == 200
            expect_problem(await send(api, headers={"Authorization": "Bearer x"}), 403, "forbidden")


# -- uploads -----------------------------------------------------------------------------------------------------------


async def open_upload(api: Api, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    wish = {"content_type": "image/jpeg", "file_name": "../../Rex.jpg"}
    response = await api.http.post("/headshot/uploads", json=wish, headers=headers)
    assert response.status_code == 201, response.text
    ticket: dict[str, Any] = response.json()
    return ticket


async def upload(api: Api, ticket: dict[str, Any], photo: bytes) -> httpx.Response:
    url = ticket["upload_url"].replace("http://127.0.0.1:8000", "")
    return await api.http.request(ticket["method"], url, content=photo, headers=ticket["headers"])


async def test_a_photo_that_was_uploaded_first(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        script(api, give())
        ticket = await open_upload(api)
        assert ticket["orig_key"] == f"{ticket['job_id']}/original/Rex.jpg"
        wish = {"job_id": ticket["job_id"], "orig_key": ticket["orig_key"]}
        early = await api.http.post("/headshot-async", json=wish)
        expect_problem(early, 404, "not_found")
        assert f"limit={api.bench.settings.photos.max_bytes}" in ticket["upload_url"]
        photo = make_photo()
        assert (await upload(api, ticket, photo)).is_success
        body = (await api.http.post("/headshot", json=wish)).json()
        assert (body["job_id"], body["quality"]) == (ticket["job_id"], QUALITY)
        assert api.engine.requests[0].photo == photo  # type: ignore[attr-defined]
        again = (await api.http.post("/headshot", json=wish)).json()
        assert (again["job_id"], len(api.engine.requests)) == (body["job_id"], 1)


@pytest.mark.parametrize(
    "key",
    [
        "other/original/Rex.jpg",
        "../secret/original/a.jpg",
        "J/original/../../a.jpg",
        "J/outputs/print.png",
        "J//a",
        "a",
    ],
)
async def test_an_upload_is_asked_for_by_its_own_key_alone(tmp_path: Path, key: str) -> None:
    async with open_api(tmp_path, trust=Callers()) as api:
        ticket = await open_upload(api, ANN)
        await upload(api, ticket, make_photo())
        wish = {"job_id": ticket["job_id"], "orig_key": key.replace("J", ticket["job_id"])}
        expect_problem(await api.http.post("/headshot-async", json=wish, headers=ANN), 422, "invalid_request")


async def test_somebody_elses_job_is_not_taken_over(tmp_path: Path) -> None:
    async with open_api(tmp_path, trust=Callers(), start=False) as api:
        ticket = await open_upload(api, ANN)
        await upload(api, ticket, make_photo())
        wish = {"job_id": ticket["job_id"], "orig_key": ticket["orig_key"]}
        expect_problem(await api.http.post("/headshot-async", json=wish, headers=BOB), 422, "invalid_request")
        assert (await api.http.post("/headshot-async", json=wish, headers=ANN)).status_code == 202
        expect_problem(await api.http.post("/headshot-async", json=wish, headers=BOB), 422, "invalid_request")
        assert (await find(api, ticket["job_id"])).owner == "ann"


@pytest.mark.parametrize(
    "wish", [{}, {"content_type": "image/gif"}, {"content_type": "image/png", "file_name": ""}, {"a": 1}]
)
async def test_an_upload_that_cannot_be(tmp_path: Path, wish: dict[str, Any]) -> None:
    async with open_api(tmp_path) as api:
        expect_problem(await api.http.post("/headshot/uploads", json=wish), 422, "invalid_request")


# -- pushes ------------------------------------------------------------------------------------------------------------


async def put_original(api: Api, job_id: str = "perkie-1", photo: bytes | None = None, expected: str = "") -> str:
    path = f"headshots/originals/{job_id}/original/rex.jpg"
    await api.bench.stores.photos.write(path, photo or make_photo(), content_type="image/jpeg", expected=expected)
    return path


MESSAGE = {"job_id": "perkie-1", "orig_bucket": "local", "orig_key": "perkie-1/original/rex.jpg"}


async def test_a_push_is_acknowledged_when_the_headshot_is_there(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        script(api, give())
        await put_original(api)
        assert (await push(api, MESSAGE)).status_code == 204
        shown = await read_document(api, "perkie-1")
        assert (shown["status"], shown["quality"]) == ("done", QUALITY)
        assert await fetch(api, shown["print_url"]) == PRINT
        assert (await api.http.get("/headshot/perkie-1")).json()["status"] == "done"
        assert (await push(api, MESSAGE)).status_code == 204
        assert (await push(api, MESSAGE, "m2")).status_code == 204
        assert len(api.engine.requests) == 1


async def test_a_push_says_when_it_was_published(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        script(api, give())
        await put_original(api)
        text = base64.b64encode(json.dumps(MESSAGE).encode()).decode()
        message = {"messageId": "m1", "data": text, "publishTime": "1970-01-01T00:00:05Z"}
        assert (await api.http.post("/headshot/push", json={"message": message})).status_code == 204
        job = await find(api, "perkie-1")
        assert (job.published_at, job.message, job.deliveries) == (5.0, text, ("m1",))


async def test_a_push_about_a_new_photo_makes_it_anew(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        script(api, give(), give(POOR))
        path = await put_original(api)
        await push(api, MESSAGE)
        await put_original(api, photo=make_photo(seed=2), expected=await api.bench.stores.photos.stat(path))
        assert (await push(api, MESSAGE, "m2")).status_code == 204
        assert (await read_document(api, "perkie-1"))["quality"] == POOR


async def test_a_failed_headshot_is_made_again_for_a_new_message_alone(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        script(api, [REJECTED], give())
        await put_original(api)
        assert (await push(api, MESSAGE)).status_code == 204
        assert (await push(api, MESSAGE)).status_code == 204
        assert (await read_document(api, "perkie-1"))["status"] == "failed"
        assert (await push(api, MESSAGE, "m2")).status_code == 204
        assert (await read_document(api, "perkie-1"))["status"] == "done"


async def test_a_push_about_a_missing_photo_fails_with_a_sentence(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        assert (await push(api, MESSAGE)).status_code == 204
        shown = await read_document(api, "perkie-1")
        assert (shown["status"], shown["error_code"]) == ("failed", "object_missing")
        assert "rex.jpg" in shown["error"]


@pytest.mark.parametrize(
    "change",
    [
        {"orig_bucket": "elsewhere"},
        {"orig_key": "perkie-1/../../../etc/passwd"},
        {"orig_key": "a//b"},
        {"orig_key": ""},
        {"orig_key": "perkie-1/original/a\x00.jpg"},
        {"orig_key": "perkie-1/original/" + "x" * 256},
        {"job_id": "../x"},
        {"job_id": "__x__"},
        {"job_id": None},
    ],
)
async def test_a_message_of_no_use_is_a_dead_letter(tmp_path: Path, change: dict[str, Any]) -> None:
    async with open_api(tmp_path) as api:
        assert (await push(api, {**MESSAGE, **change})).status_code == 204
        (letter,) = await api.bench.stores.dead_letters.latest(10)  # type: ignore[attr-defined]
        assert letter.reason == "invalid_message"
        if change.keys() == {"job_id"}:
            assert await api.bench.stores.jobs.list_owned("", limit=5) == []
            return
        shown = await read_document(api, "perkie-1")
        assert (shown["status"], shown["error_code"]) == ("failed", "invalid_message")
        assert shown["error"] == letter.message
        script(api, give())
        await put_original(api)
        assert (await push(api, MESSAGE, "m2")).status_code == 204
        assert (await read_document(api, "perkie-1"))["status"] == "done"


async def test_a_refused_message_is_no_sessions_failure(tmp_path: Path) -> None:
    """Whatever else its publisher put into it."""
    async with open_api(tmp_path) as api:
        await api.bench.put_session()
        ids = {"userId": SESSION.user_id, "sessionId": SESSION.session_id}
        assert (await push(api, {**MESSAGE, **ids, "orig_bucket": "elsewhere"})).status_code == 204
        assert await api.bench.backend.read(SESSION) == {"createdBy": "pawfect"}


async def test_what_publishers_name_is_theirs(tmp_path: Path) -> None:
    """Nobody gets a headshot of a photo that was put there for a message, by guessing its name."""
    async with open_api(tmp_path, trust=Callers(("shop-*",)), ingress=OPEN_DOOR) as api:
        script(api, give())
        await put_original(api)
        wish = {"job_id": MESSAGE["job_id"], "orig_key": MESSAGE["orig_key"]}
        for headers in (None, ANN):
            expect_problem(await api.http.post("/headshot", json=wish, headers=headers), 422, "invalid_request")
        assert (await push(api, MESSAGE)).status_code == 204
        assert (await read_document(api, "perkie-1"))["status"] == "done"


async def test_a_message_about_another_job_is_a_dead_letter(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        await api.bench.put_session()
        edit = await api.bench.finish(await api.bench.submit())
        assert (await push(api, {**MESSAGE, "job_id": edit.id})).status_code == 204
        assert (await find(api, edit.id)).operation is Operation.INPAINT
        (letter,) = await api.bench.stores.dead_letters.latest(10)  # type: ignore[attr-defined]
        assert letter.reason == "invalid_message"


async def test_what_a_message_asked_for_is_seen_by_those_who_may_see_every_users(tmp_path: Path) -> None:
    for users, status in ((("*",), 200), (("shop-*",), 404)):
        root = tmp_path / str(status)
        async with open_api(root, trust=Callers(users)) as api:
            script(api, give())
            await put_original(api)
            await push(api, MESSAGE)
            assert (await api.http.get("/headshot/perkie-1", headers=ANN)).status_code == status


async def test_what_a_message_asked_for_is_no_strangers_to_see(tmp_path: Path) -> None:
    async with open_api(tmp_path, trust=Callers(), ingress=OPEN_DOOR) as api:
        script(api, give())
        await put_original(api)
        await push(api, MESSAGE)
        expect_problem(await api.http.get("/headshot/perkie-1"), 404, "not_found")


async def test_a_link_stops_working(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        script(api, give())
        url = (await send(api)).json()["print_url"].replace("http://127.0.0.1:8000", "")
        assert (await api.http.get(url)).status_code == 200
        expect_problem(await api.http.get(url[:-1] + ("0" if url[-1] != "0" else "1")), 403, "forbidden")
        preview = url.replace("print.png", "preview.png", 1)
        expect_problem(await api.http.get(preview), 403, "forbidden")


async def test_the_originals_are_served_to_nobody(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        script(api, give())
        job_id = (await send(api)).json()["job_id"]
        expect_problem(await api.http.get(f"/files/headshots/originals/{job_id}/original/Rex_me.jpg"), 403, "forbidden")


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
