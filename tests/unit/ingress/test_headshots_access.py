"""Who may ask for headshots, see them, and name uploads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from ingress.allowance import Allowance
from ingress.auth import GoogleTokens, VerifiedCaller
from ingress.keys import KeySet
from serve_app.clock import SystemClock
from serve_app.errors import Forbidden
from serve_app.settings_sections import CallerSettings, GoogleSettings
from tests.api import expect_problem, open_api
from tests.headshots_api import (
    ANN,
    BOB,
    OPEN_DOOR,
    PREVIEW,
    PRINT,
    QUALITY,
    Callers,
    fetch,
    find,
    give,
    open_upload,
    read_document,
    script,
    send,
    upload,
)
from tests.photos import make_photo
from tests.tokens import serve_keys


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
