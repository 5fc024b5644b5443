"""The HTTP application around the real stores and runner, without Ray; the engine is scripted."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serve_app import __version__
from serve_app.engines.loading import LoadState, Phase
from serve_app.errors import StoreUnavailable
from serve_app.jobs.model import Session, Status
from tests.api import expect_problem, open_api
from tests.photos import make_mask
from tests.workbench import SESSION

EDIT = "/v1/users/user/sessions/session/edit"


MESSAGE = {"userId": "user", "sessionId": "session"}


async def test_a_push_is_acknowledged_when_the_edit_is_done(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        await api.bench.put_session()
        response = await api.push(MESSAGE)
        assert (response.status_code, response.content) == (204, b"")
        document = await api.bench.backend.read(SESSION)
        assert document is not None
        assert document["processingStatus"] == "completed"
        assert api.bench.sink.value("pawfect_pushes_total", status="204") == 1


async def test_two_pushes_of_one_message_at_once_are_one_edit(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        await api.bench.put_session()
        responses = await asyncio.gather(api.push(MESSAGE), api.push(MESSAGE))
        assert [response.status_code for response in responses] == [204, 204]
        assert len(api.engine.requests) == 1


async def test_a_push_that_waits_too_long_comes_again_and_waits_on(tmp_path: Path) -> None:
    async with open_api(tmp_path, push_wait_s=0.2) as api:
        await api.bench.put_session()
        api.engine.gate.clear()
        response = await api.push(MESSAGE)
        assert (response.status_code, api.engine.left) == (503, 0)
        api.engine.gate.set()
        assert (await api.push(MESSAGE)).status_code == 204
        assert len(api.engine.requests) == 1


async def test_a_failed_edit_is_acknowledged_and_dead_lettered(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        await api.bench.put_session(mask=make_mask(box=None))
        assert (await api.push(MESSAGE)).status_code == 204
        async with asyncio.timeout(10):
            while not (letters := await api.bench.stores.dead_letters.latest(10)):
                await asyncio.sleep(0.01)
        assert (letters[0].reason, letters[0].attributes["sessionId"]) == ("mask_empty", "session")
        assert json.loads(base64.b64decode(letters[0].data)) == MESSAGE


async def test_no_envelope_is_a_bad_request_and_leaves_nothing(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        expect_problem(await api.http.post("/inpaint", content=b"hello"), 400, "invalid_envelope")
        assert await api.bench.stores.dead_letters.latest(10) == []


@pytest.mark.parametrize("data", ["!!!", {"userId": "user"}, {"userId": "../x", "sessionId": "s"}])
async def test_a_message_of_no_use_is_acknowledged_and_dead_lettered(tmp_path: Path, data: Any) -> None:
    async with open_api(tmp_path) as api:
        assert (await api.push(data)).status_code == 204
        (letter,) = await api.bench.stores.dead_letters.latest(10)
        assert (letter.id, letter.reason) == ("push-m1", "invalid_message")
        assert api.bench.sink.value("pawfect_dead_letters_total", reason="invalid_message") == 1


@pytest.mark.parametrize("options", [{"steps": 0}, {"quality": "ultra"}])
async def test_a_refused_parameter_is_shown_in_the_session(tmp_path: Path, options: dict[str, Any]) -> None:
    async with open_api(tmp_path) as api:
        await api.bench.put_session()
        assert (await api.push({**MESSAGE, **options})).status_code == 204
        (letter,) = await api.bench.stores.dead_letters.latest(10)
        document = await api.bench.backend.read(SESSION)
        assert document is not None
        assert (document["processingStatus"], document["errorMessage"]) == ("failed", letter.message)


async def test_a_huge_body_is_not_read(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        expect_problem(await api.http.post("/inpaint", content=bytes(17 * 2**20)), 413, "request_entity_too_large")

        async def drip() -> AsyncIterator[bytes]:
            for _ in range(17):
                yield bytes(2**20)

        expect_problem(await api.http.post("/inpaint", content=drip()), 413, "request_entity_too_large")


@pytest.mark.parametrize("body", [b" " * 2**20, b'{"' + b"k" * 2**20 + b'": 1}'])
async def test_a_huge_body_of_options_is_not_read_either(tmp_path: Path, body: bytes) -> None:
    async with open_api(tmp_path, start=False) as api:
        await api.bench.put_session()
        expect_problem(await api.http.post(EDIT, content=body), 413, "request_entity_too_large")


async def test_a_long_field_name_is_not_echoed(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        await api.bench.put_session()
        body = expect_problem(await api.http.post(EDIT, json={"k" * 5000: 1}), 422, "invalid_request")
        assert len(body["field"]) < 80


async def test_every_push_is_counted_by_its_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_api(tmp_path) as api:
        await api.push(MESSAGE)
        await api.http.post("/inpaint", content=b"hello")
        for _ in range(3):
            await api.push("!!!", "bad")

        async def fail(*_: object) -> None:
            raise StoreUnavailable("out for lunch.")

        monkeypatch.setattr(api.bench.stores.jobs, "change", fail)
        await api.push(MESSAGE, "m2")
        for status, count in (("204", 4), ("400", 1), ("503", 1)):
            assert api.bench.sink.value("pawfect_pushes_total", status=status) == count
        assert api.bench.sink.value("pawfect_dead_letters_total", reason="invalid_message") == 1


async def test_a_store_that_does_not_answer_is_a_reason_to_deliver_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_api(tmp_path, start=False) as api:
        await api.bench.put_session()

        async def fail(*_: object) -> None:
            raise StoreUnavailable("out for lunch.")

        monkeypatch.setattr(api.bench.stores.jobs, "change", fail)
        response = await api.push(MESSAGE)
        expect_problem(response, 503, "store_unavailable")
        assert int(response.headers["retry-after"]) > 0


async def test_a_defect_is_a_plain_500(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_api(tmp_path, start=False) as api:
        monkeypatch.setattr(api.bench.service, "submit", None)
        body = expect_problem(await api.push(MESSAGE), 500, "internal")
        assert "NoneType" not in body["detail"]


async def test_the_direct_route_waits_and_shows_the_session(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        await api.bench.put_session()
        response = await api.http.post(EDIT, json={"seed": 7})
        assert response.status_code == 200
        body = response.json()
        assert (body["processingStatus"], body["job"]["status"], body["errorMessage"]) == (
            "completed",
            "completed",
            None,
        )
        assert body["editedImagePath"] == SESSION.edited_path
        assert body["job"]["stageSeconds"]["engine"] >= 0
        assert api.engine.requests[0].seed == 7
        assert (await api.http.get(EDIT)).json() == body


async def test_the_direct_route_needs_no_body(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        await api.bench.put_session()
        assert (await api.http.post(EDIT)).status_code == 200


async def test_a_failed_edit_is_422_with_its_reason(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        await api.bench.put_session(mask=make_mask(box=None))
        body = expect_problem(await api.http.post(EDIT), 422, "mask_empty")
        assert body["jobId"].startswith("edit-")


async def test_a_quality_not_offered_is_422_and_says_what_is(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        await api.bench.put_session()
        body = expect_problem(await api.http.post(EDIT, json={"quality": "high"}), 422, "quality_unavailable")
        assert "offered are auto, draft" in body["detail"]
        body = expect_problem(await api.http.post(EDIT, json={"quality": "ultra"}), 422, "invalid_request")
        assert body["field"] == "quality"


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_no_such_session_is_404(tmp_path: Path, method: str) -> None:
    async with open_api(tmp_path) as api:
        expect_problem(await api.http.request(method, EDIT), 404, "not_found")
        assert (await api.bench.stores.jobs.backlog(0.0)).queued == 0


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": 10_000}, {"unknown": 1}, {"seed": "x"}, [1]])
async def test_bad_options_are_422_and_name_the_field(tmp_path: Path, options: Any) -> None:
    async with open_api(tmp_path, start=False) as api:
        await api.bench.put_session()
        body = expect_problem(await api.http.post(EDIT, json=options), 422, "invalid_request")
        if isinstance(options, dict):
            assert body["field"] == next(iter(options))


async def test_a_bad_id_in_the_path_is_422(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        body = expect_problem(await api.http.get("/v1/users/a%20b/sessions/s/edit"), 422, "invalid_request")
        assert (body["field"], body["detail"]) == ("userId", "userId: must be 1 to 128 letters, digits, '_' or '-'.")


async def test_an_edit_that_takes_longer_is_202_and_goes_on(tmp_path: Path) -> None:
    async with open_api(tmp_path, push_wait_s=0.2) as api:
        await api.bench.put_session()
        api.engine.gate.clear()
        response = await api.http.post(EDIT)
        assert (response.status_code, response.json()["job"]["status"]) == (202, "processing")
        api.engine.gate.set()
        job = await api.bench.stores.jobs.get(response.json()["job"]["jobId"])
        assert job is not None
        assert (await api.bench.finish(job)).status is Status.COMPLETED


async def test_cancelling_a_queued_then_a_running_then_a_finished_edit(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        await api.bench.put_session()
        expect_problem(await api.http.delete(EDIT), 404, "not_found")
        await api.bench.submit("m1")
        cancelled = await api.http.delete(EDIT)
        assert (cancelled.status_code, cancelled.json()["job"]["status"]) == (200, "cancelled")
        api.engine.gate.clear()
        api.bench.runner.start()
        running = await api.bench.until(await api.bench.submit("m2"), status=Status.PROCESSING)
        assert (await api.http.delete(EDIT)).status_code == 202
        assert (await api.bench.finish(running)).status is Status.CANCELLED
        expect_problem(await api.http.delete(EDIT), 409, "conflict")


async def test_a_caller_whose_edit_is_cancelled_hears_it(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        await api.bench.put_session()
        waiting = asyncio.create_task(api.http.post(EDIT))
        async with asyncio.timeout(10):
            while (await api.http.get(EDIT)).json()["job"] is None:
                await asyncio.sleep(0.01)
        await api.http.delete(EDIT)
        body = expect_problem(await waiting, 409, "conflict")
        assert body["detail"] == "The edit was cancelled."


async def test_probes(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        for path in ("/health", "/healthz"):
            assert (await api.http.get(path)).json() == {"status": "alive", "version": __version__}
        assert (await api.http.get("/ready")).json() == {
            "ready": True,
            "state": "ready",
            "reason": None,
            "engines": {"draft": "ready"},
        }
        for state, status, phase in (
            (LoadState(Phase.LOADING, None, 3.0), 503, "loading"),
            (LoadState(Phase.FAILED, "weights are gone", 3.0), 503, "failed"),
            (None, 200, "idle"),
        ):
            api.states["draft"] = state
            response = await api.http.get("/ready")
            assert (response.status_code, response.json()["state"]) == (status, phase)
            if phase == "failed":
                assert response.json()["reason"] == "weights are gone"


async def test_unknown_paths_and_methods_are_problems_too(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        assert (await api.http.get("/nothing")).headers["content-type"] == "application/problem+json"
        assert (await api.http.get("/inpaint")).status_code == 405


async def test_another_users_session_is_another_session(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        await api.bench.put_session(session=Session("other", "session"))
        expect_problem(await api.http.get(EDIT), 404, "not_found")
