"""Pushes that ask for headshots: what is acknowledged, made, and shown of what cannot be used."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from serve_app.clock import SystemClock
from serve_app.jobs.expiry import Expiry
from serve_app.jobs.model import Operation
from serve_app.jobs.store import Write
from tests.api import expect_problem, open_api
from tests.headshots_api import (
    ANN,
    MESSAGE,
    OPEN_DOOR,
    POOR,
    PRINT,
    QUALITY,
    REJECTED,
    Callers,
    fetch,
    find,
    give,
    push,
    put_original,
    read_document,
    script,
)
from tests.photos import make_photo
from tests.workbench import SESSION


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
