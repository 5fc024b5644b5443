"""`/v1/jobs` around the real stores and runner; the engine is scripted."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ingress.allowance import Allowance
from ingress.auth import VerifiedCaller
from ingress.callers import may_touch
from ingress.pages import MAX_READ
from ingress.results import prefers_json
from serve_app.engines.protocol import Done, EngineResult
from serve_app.errors import EngineRejected, StoreUnavailable
from serve_app.jobs.model import Job, Status
from serve_app.jobs.store import Write
from serve_app.settings_sections import FluxSettings
from tests.api import Api, NamedCallers, expect_problem, open_api
from tests.photos import make_mask, make_photo
from tests.workbench import SESSION

JOBS = "/v1/jobs"
FLUX = {"flux": FluxSettings(checkpoints={"flux-dev": "hub"})}
ANN, BOB = {"caller": "ann"}, {"caller": "bob"}
BODY = {
    "operation": "ImageInpaint",
    "init_image": base64.b64encode(make_photo()).decode(),
    "mask_image": base64.b64encode(make_mask()).decode(),
}


async def create(api: Api, headers: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    response = await api.http.post(JOBS, json={**BODY, **fields}, headers=headers)
    assert response.status_code == 202, response.text
    view: dict[str, Any] = response.json()
    return view


async def find(api: Api, job_id: str) -> Job:
    job = await api.bench.stores.jobs.get(job_id)
    assert job is not None
    return job


async def finish(api: Api, view: dict[str, Any]) -> Job:
    return await api.bench.finish(await find(api, view["job_id"]))


# -- asking --------------------------------------------------------------------------------------------------------


async def test_a_job_from_the_request_to_its_result(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        response = await api.http.post(JOBS, json={**BODY, "seed": 7, "priority": "urgent", "deadline_s": 60})
        assert response.status_code == 202
        view = response.json()
        url = f"/v1/jobs/{view['job_id']}"
        assert response.headers["location"] == view["status_url"] == url
        assert (view["sse_url"], view["result_url"]) == (f"{url}/events", f"{url}/result")
        assert (view["operation"], view["model"], view["quality"]) == ("ImageInpaint", "draft", "draft")
        assert (view["priority"], view["seed"]) == ("urgent", 7)
        assert view["deadline_at"] == pytest.approx(view["created_at"] + 60)
        await finish(api, view)
        status = (await api.http.get(view["status_url"])).json()
        assert (status["status"], status["error"], status["cancel_requested"]) == ("completed", None, False)
        assert status["finished_at"] >= status["created_at"]
        assert status["cost"] > 0
        result = await api.http.get(view["result_url"])
        assert (result.status_code, result.headers["content-type"]) == (200, "image/jpeg")
        assert Image.open(io.BytesIO(result.content)).size == (160, 120)


async def test_an_image_of_a_text(tmp_path: Path) -> None:
    async with open_api(tmp_path, ingress=FLUX) as api:
        picture = np.full((64, 96, 3), 200, np.uint8)
        api.engine.script.append([Done(EngineResult((picture,), 0.5, 2.0))])
        wish = {"operation": "ImageGeneration", "prompt": "a dog", "width": 96, "height": 64, "output_format": "png"}
        response = await api.http.post(JOBS, json=wish)
        assert response.status_code == 202, response.text
        assert (response.json()["model"], response.json()["width"]) == ("flux-dev", 96)
        await finish(api, response.json())
        result = await api.http.get(response.json()["result_url"])
        assert result.headers["content-type"] == "image/png"
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(result.content))), picture)


async def test_a_failed_job_says_why(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        api.engine.script.append(EngineRejected("the prompt is too dull"))
        view = await create(api)
        await finish(api, view)
        status = (await api.http.get(view["status_url"])).json()
        assert status["error"] == {"code": "engine_rejected", "message": "the prompt is too dull"}
        problem = expect_problem(await api.http.get(view["result_url"]), 409, "conflict")
        assert (problem["job_status"], problem["job_error"]) == ("failed", "engine_rejected")
        assert "the prompt is too dull" in problem["detail"]


# -- idempotency ---------------------------------------------------------------------------------------------------


async def test_the_same_key_and_body_give_the_same_job(tmp_path: Path) -> None:
    key = {"Idempotency-Key": "order-1"}
    async with open_api(tmp_path, start=False) as api:
        first, second = await asyncio.gather(create(api, key, seed=1), create(api, key, seed=1))
        assert first["job_id"] == second["job_id"]
        assert (await api.bench.stores.jobs.backlog(0.0)).queued == 1
        api.bench.runner.start()
        await finish(api, first)
        again = await api.http.post(JOBS, json={**BODY, "seed": 1}, headers=key)
        assert (again.status_code, again.json()["status"]) == (200, "completed")
        assert again.headers["location"] == first["status_url"]
        assert len(api.engine.requests) == 1


@pytest.mark.parametrize("change", [{"seed": 2}, {"init_image": base64.b64encode(make_photo(seed=1)).decode()}])
async def test_the_same_key_with_another_body_is_a_conflict(tmp_path: Path, change: dict[str, Any]) -> None:
    key = {"Idempotency-Key": "k"}
    async with open_api(tmp_path, start=False) as api:
        await create(api, key, seed=1)
        response = await api.http.post(JOBS, json={**BODY, "seed": 1, **change}, headers=key)
        assert "Idempotency-Key" in expect_problem(response, 409, "conflict")["detail"]
        assert (await api.bench.stores.jobs.backlog(0.0)).queued == 1


async def test_keys_are_each_callers_own_and_without_one_every_request_is_new(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False, trust=NamedCallers()) as api:
        views = [
            await create(api, headers)
            for headers in ({**ANN, "Idempotency-Key": "k"}, {**BOB, "Idempotency-Key": "k"}, ANN, ANN)
        ]
        assert len({view["job_id"] for view in views}) == 4


@pytest.mark.parametrize("keys", [[b""], [b"a b"], [b"x" * 256], ["ä".encode()], [b"a", b"a"]])
async def test_a_key_of_no_use_is_refused_before_the_body_is_read(tmp_path: Path, keys: list[bytes]) -> None:
    was_read = False

    async def stream() -> AsyncIterator[bytes]:
        nonlocal was_read
        was_read = True
        yield json.dumps(BODY).encode()

    async with open_api(tmp_path, start=False) as api:
        headers = [(b"content-type", b"application/json"), *((b"idempotency-key", key) for key in keys)]
        problem = expect_problem(await api.http.post(JOBS, content=stream(), headers=headers), 422, "invalid_request")
        assert problem["field"] == "Idempotency-Key"
        assert not was_read


# -- whose job it is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "rest"), [("GET", ""), ("DELETE", ""), ("GET", "/result")])
async def test_somebody_elses_job_is_as_unknown_as_none(tmp_path: Path, method: str, rest: str) -> None:
    async with open_api(tmp_path, trust=NamedCallers()) as api:
        view = await create(api, ANN)
        await finish(api, view)
        mine = await api.http.request(method, view["status_url"] + rest, headers=ANN)
        assert mine.status_code != 404
        problems = [
            expect_problem(await api.http.request(method, f"{JOBS}/{job_id}{rest}", headers=BOB), 404, "not_found")
            for job_id in (view["job_id"], "job-none")
        ]
        assert problems[0]["detail"].replace(view["job_id"], "job-none") == problems[1]["detail"]


async def test_an_id_that_is_none_is_refused(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        assert expect_problem(await api.http.get(f"{JOBS}/a%20b"), 422, "invalid_request")["field"] == "job_id"


# -- cancelling ----------------------------------------------------------------------------------------------------


async def test_cancelling_a_queued_then_a_running_then_a_finished_job(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        queued = await create(api)
        response = await api.http.delete(queued["status_url"])
        assert (response.status_code, response.json()["status"]) == (200, "cancelled")
        assert response.json()["error"] == {"code": "cancelled", "message": "cancelled"}
        api.engine.gate.clear()
        api.bench.runner.start()
        running = await create(api)
        await api.bench.until(await find(api, running["job_id"]), status=Status.PROCESSING)
        response = await api.http.delete(running["status_url"])
        assert (response.status_code, response.json()["cancel_requested"]) == (202, True)
        assert (await finish(api, running)).status is Status.CANCELLED
        expect_problem(await api.http.delete(running["status_url"]), 409, "conflict")
        problem = expect_problem(await api.http.get(running["result_url"]), 409, "conflict")
        assert (problem["job_status"], problem["job_error"]) == ("cancelled", "cancelled")


# -- sessions' edits -----------------------------------------------------------------------------------------------


async def test_a_sessions_edit_is_a_job_too(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        await api.bench.put_session()
        job = await api.bench.finish(await api.bench.submit("m1"))
        url = f"{JOBS}/{job.id}"
        view = (await api.http.get(url)).json()
        assert (view["job_id"], view["status"], view["model"]) == (job.id, "completed", "draft")
        result = await api.http.get(f"{url}/result")
        edited = await api.bench.stores.photos.read(SESSION.edited_path, max_bytes=2**20)
        assert result.content == edited.data
        assert result.headers["cache-control"] == "private, no-cache"
        expect_problem(await api.http.delete(url), 409, "conflict")
        # The photo at the session's path is the newer edit's from now on.
        newer = await api.bench.finish(await api.bench.submit("m2", seed=2))
        assert "edited again" in expect_problem(await api.http.get(f"{url}/result"), 410, "gone")["detail"]
        assert (await api.http.get(f"{JOBS}/{newer.id}/result")).status_code == 200


async def test_a_queued_edit_of_a_session_is_cancelled(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        await api.bench.put_session()
        job = await api.bench.submit("m1")
        assert (await api.http.delete(f"{JOBS}/{job.id}")).json()["status"] == "cancelled"


async def test_a_sessions_edit_is_for_those_who_may_touch_its_user(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        await api.bench.put_session()
        job = await api.bench.submit("m1")
        assert may_touch(VerifiedCaller("ann", Allowance(users=("us*",))), job)
        assert not may_touch(VerifiedCaller("ann", Allowance(users=("other*",))), job)


# -- results -------------------------------------------------------------------------------------------------------


async def test_a_result_as_json_and_its_tags(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        view = await create(api, output_format="webp")
        await finish(api, view)
        image = await api.http.get(view["result_url"])
        as_json = await api.http.get(view["result_url"], headers={"accept": "application/json"})
        assert as_json.headers["content-type"] == "application/json"
        assert int(as_json.headers["content-length"]) == len(as_json.content)
        body = as_json.json()
        assert (body["job_id"], body["content_type"]) == (view["job_id"], "image/webp")
        assert base64.b64decode(body["image"], validate=True) == image.content
        assert image.headers["etag"] != as_json.headers["etag"]
        assert "immutable" in image.headers["cache-control"]
        assert "Accept" in image.headers["vary"]
        for tag in (image.headers["etag"], f'"other", W/{image.headers["etag"]}', "*"):
            known = await api.http.get(view["result_url"], headers={"if-none-match": tag})
            assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", image.headers["etag"])
        stale = {"if-none-match": as_json.headers["etag"]}
        assert (await api.http.get(view["result_url"], headers=stale)).content == image.content


async def test_a_queued_job_has_no_result_yet(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        view = await create(api)
        problem = expect_problem(await api.http.get(view["result_url"]), 409, "conflict")
        assert problem["job_status"] == "queued"


async def test_a_result_whose_file_is_gone(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        view = await create(api)
        job = await finish(api, view)
        await api.bench.stores.photos.delete(job.files.result)
        assert "is gone" in expect_problem(await api.http.get(view["result_url"]), 410, "gone")["detail"]


async def test_a_result_whose_time_is_over(tmp_path: Path) -> None:
    def age(job: Job | None, _document: object) -> Write:
        assert job is not None
        return Write(job.evolve(expires_at=job.created_at))

    async with open_api(tmp_path) as api:
        view = await create(api)
        await finish(api, view)
        await api.bench.stores.jobs.change(view["job_id"], None, age)
        assert "time" in expect_problem(await api.http.get(view["result_url"]), 410, "gone")["detail"]


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("*/*", False),
        ("", False),
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("application/json, text/plain, */*", True),
        ("image/*, application/json;q=0.5", False),
        ("image/jpeg;q=0.5, application/json", True),
        ("application/json;q=0", False),
        ("application/json;q=much", False),
        ("text/html", False),
    ],
)
def test_what_is_accepted(accept: str, wanted: bool) -> None:
    assert prefers_json(accept) is wanted


# -- lists ---------------------------------------------------------------------------------------------------------


async def read_all(api: Api, **query: Any) -> list[list[str]]:
    pages: list[list[str]] = []
    while True:
        response = await api.http.get(JOBS, params=query, headers=ANN)
        assert response.status_code == 200, response.text
        pages.append([job["job_id"] for job in response.json()["jobs"]])
        if response.json()["next_cursor"] is None:
            return pages
        query["cursor"] = response.json()["next_cursor"]


def flatten(pages: list[list[str]]) -> list[str]:
    return [job_id for page in pages for job_id in page]


async def test_own_jobs_newest_first_page_by_page(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False, trust=NamedCallers()) as api:
        assert await read_all(api) == [[]]
        await create(api, BOB)
        await api.bench.put_session()
        await api.bench.submit("m1")
        ids = [(await create(api, ANN))["job_id"] for _ in range(5)][::-1]
        assert await read_all(api) == [ids]
        assert await read_all(api, limit=2) == [ids[:2], ids[2:4], ids[4:]]
        assert await read_all(api, limit=5) == [ids]
        for job_id in ids[1::2]:
            await api.http.delete(f"{JOBS}/{job_id}", headers=ANN)
        assert flatten(await read_all(api, limit=1, status="cancelled")) == ids[1::2]
        assert flatten(await read_all(api, limit=2, status="queued")) == ids[::2]
        assert await read_all(api, status="failed") == [[]]


async def test_a_page_reads_so_many_jobs_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_api(tmp_path, start=False, trust=NamedCallers()) as api:
        job = await find(api, (await create(api, ANN))["job_id"])
        many = [job.evolve(id=f"job-{n:04}", created_at=1e9 - n) for n in range(MAX_READ + 30)]
        many[-1] = many[-1].evolve(status=Status.FAILED)
        reads = 0

        async def list_owned(owner: str, *, limit: int, before: tuple[float, str] | None = None) -> list[Job]:
            nonlocal reads
            reads += limit
            start = 0 if before is None else [job.id for job in many].index(before[1]) + 1
            return many[start : start + limit]

        monkeypatch.setattr(api.bench.stores.jobs, "list_owned", list_owned)
        assert await read_all(api, status="failed") == [[], [many[-1].id]]
        assert reads < 2 * MAX_READ


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"status": "done"}, "status"),
        ({"cursor": "x"}, "cursor"),
        ({"cursor": "ä"}, "cursor"),
        ({"cursor": ""}, "cursor"),
        ({"cursor": base64.urlsafe_b64encode(b'[NaN,"job-1"]').decode()}, "cursor"),
        ({"cursor": base64.urlsafe_b64encode(b"[1.5,7]").decode()}, "cursor"),
        ({"cursor": base64.urlsafe_b64encode(b"[1.5]").decode()}, "cursor"),
        ({"cursor": base64.urlsafe_b64encode(b"[" * 150).decode()}, "cursor"),
        ({"cursor": "A" * 257}, "cursor"),
    ],
)
async def test_a_bad_query_is_refused(tmp_path: Path, query: dict[str, Any], field: str) -> None:
    async with open_api(tmp_path, start=False) as api:
        assert expect_problem(await api.http.get(JOBS, params=query), 422, "invalid_request")["field"] == field


# -- outages, and what is documented -------------------------------------------------------------------------------


async def test_an_outage_is_answered_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise StoreUnavailable("out for lunch.")

    async with open_api(tmp_path) as api:
        view = await create(api)
        await finish(api, view)
        monkeypatch.setattr(api.bench.stores.photos, "stat", fail)
        monkeypatch.setattr(api.bench.stores.photos, "write", fail)
        for response in (await api.http.get(view["result_url"]), await api.http.post(JOBS, json=BODY)):
            expect_problem(response, 503, "store_unavailable")
            assert int(response.headers["retry-after"]) > 0


async def test_the_openapi_document_describes_both_bodies_and_every_answer(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        document = (await api.http.get("/openapi.json")).json()
    assert "#/$defs" not in json.dumps(document)
    create_job = document["paths"][JOBS]["post"]
    bodies = create_job["requestBody"]["content"]
    assert bodies.keys() == {"application/json", "multipart/form-data"}
    as_json, as_form = (body["schema"]["properties"] for body in bodies.values())
    assert as_json.keys() == as_form.keys()
    assert as_form["init_image"] == {"type": "string", "format": "binary"}
    assert as_form["steps"]["type"] == "integer"
    assert {"200", "202", "401", "403", "408", "409", "413", "415", "422", "503"} <= create_job["responses"].keys()
    for path, operations in document["paths"].items():
        if path.startswith(JOBS):
            for operation in operations.values():
                for status, answer in operation["responses"].items():
                    assert int(status) < 400 or answer["content"].keys() == {"application/problem+json"}


async def test_the_examples_of_the_document_can_be_sent_as_they_are(tmp_path: Path) -> None:
    async with open_api(tmp_path, ingress=FLUX) as api:
        document = (await api.http.get("/openapi.json")).json()
        examples = document["paths"][JOBS]["post"]["requestBody"]["content"]["application/json"]["examples"]
        for example in examples.values():
            picture = np.zeros((example["value"].get("height", 64), example["value"].get("width", 64), 3), np.uint8)
            api.engine.script.append(lambda _, picture=picture: EngineResult((picture,), 0.5, 2.0))
            response = await api.http.post(JOBS, json=example["value"])
            assert response.status_code == 202, response.text
            ended = await finish(api, response.json())
            assert (ended.status, ended.error) == (Status.COMPLETED, None)
