"""What goes wrong on the OpenAI-compatible routes, in the words of the official client."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest

from ingress.allowance import Allowance
from ingress.auth import VerifiedCaller
from ingress.image_schemas import EDITS_PATH, GENERATIONS_PATH, MAX_IMAGES
from serve_app.errors import EngineRejected, StoreUnavailable, Unauthenticated
from serve_app.jobs.model import Status
from serve_app.settings_sections import PhotoSettings
from tests.api import NamedCallers, open_api
from tests.unit.ingress.openai_client import (
    FLUX,
    PNG,
    expect_error,
    hold_all_but_the_first,
    list_jobs,
    make_holes,
    open_client,
    post_edit,
    until_jobs,
)


async def test_a_failed_job_is_told_and_the_others_are_cancelled(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        api.engine.script.append(EngineRejected("the prompt is too dull"))
        api.engine.run = hold_all_but_the_first(api)  # type: ignore[method-assign]
        response = await post_edit(api, n="2", seed="1")
        assert response.status_code == 422
        body = response.json()
        assert (body["type"], body["error"]["code"]) == ("urn:pawfect:problem:engine_rejected", "engine_rejected")
        assert body["error"]["message"] == "the prompt is too dull"
        assert body["job_id"].startswith("job-")
        await until_jobs(api, 1, Status.CANCELLED)


async def test_what_takes_too_long_is_cancelled_and_may_be_tried_again(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False, push_wait_s=0.05) as api:
        response = await post_edit(api)
        expect_error(response, 503, "deadline_exceeded")
        assert int(response.headers["retry-after"]) > 0
        assert [job.status for job in await list_jobs(api)] == [Status.CANCELLED]


async def test_a_job_that_somebody_else_cancels_is_not_asked_for_again(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api, open_client(api) as client:
        patient = client.with_options(max_retries=2)
        asking = asyncio.create_task(patient.images.edit(image=PNG, mask=make_holes(), prompt="grass"))
        (job,) = await until_jobs(api, 1, Status.QUEUED)
        await api.bench.service.cancel(job.id)
        with pytest.raises(openai.ConflictError):
            await asyncio.wait_for(asking, 20)
        assert len(await list_jobs(api)) == 1


async def test_together_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_api(tmp_path, start=False) as api:
        store, calls = api.bench.stores.jobs, 0
        change = store.change

        async def fail_once(job_id: str, session: Any, decide: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise StoreUnavailable("out for lunch.")
            return await change(job_id, session, decide)

        monkeypatch.setattr(store, "change", fail_once)
        expect_error(await post_edit(api, n="3"), 503, "store_unavailable")
        assert [job.status for job in await list_jobs(api)] == [Status.CANCELLED] * 2


class ThreeAtATime(NamedCallers):
    async def verify_caller(self, connection: Any) -> VerifiedCaller:
        caller = await super().verify_caller(connection)
        return VerifiedCaller(caller.id, Allowance(concurrent_jobs=3))


async def test_every_image_takes_a_place_of_its_caller(tmp_path: Path) -> None:
    async with open_api(tmp_path, trust=ThreeAtATime()) as api, open_client(api) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.images.edit(image=PNG, mask=make_holes(), prompt="grass", n=4)
        assert (caught.value.type, caught.value.code) == ("rate_limit_error", "too_many_requests")
        assert int(caught.value.response.headers["retry-after"]) > 0
        assert await list_jobs(api) == []
        assert (await client.images.edit(image=PNG, mask=make_holes(), prompt="grass", n=3)).data is not None


async def test_a_stranger_reads_of_it_as_the_client_does(tmp_path: Path) -> None:
    class Nobody(NamedCallers):
        async def verify_caller(self, connection: Any) -> VerifiedCaller:
            raise Unauthenticated("no key")

    async with open_api(tmp_path, start=False, trust=Nobody()) as api, open_client(api) as client:
        with pytest.raises(openai.AuthenticationError, match="API key"):
            await client.models.list()
        with pytest.raises(openai.AuthenticationError, match="API key"):
            await client.images.edit(image=PNG, prompt="grass")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"n": "0"}, "n"),
        ({"n": str(MAX_IMAGES + 1)}, "n"),
        ({"size": "big"}, "size"),
        ({"quality": "best"}, "quality"),
        ({"model": "gpt-image-1"}, "model"),
        ({"output_format": "gif"}, "output_format"),
        ({"background": "transparent"}, "background"),
        ({"response_format": "url", "stream": "true"}, "stream"),
        ({"steps": "10000"}, "steps"),
        ({"strength": "0.5"}, "strength"),
        ({"frame_count": "2"}, "frame_count"),
        ({"prompt": ""}, "prompt"),
    ],
)
async def test_a_bad_field_of_an_edit_is_named(tmp_path: Path, fields: dict[str, str], field: str) -> None:
    async with open_api(tmp_path, start=False) as api:
        assert expect_error(await post_edit(api, **fields), 422, "invalid_request")["field"] == field
        assert await list_jobs(api) == []


@pytest.mark.parametrize(
    ("files", "field"),
    [
        ({"mask": PNG}, "image"),
        ({"image": PNG, "image[]": PNG}, "image"),
        ([("image[]", PNG), ("image[]", PNG)], "image[]"),
        ({"image": b"no image"}, "image"),
        ({"image": PNG, "mask": b"no image"}, "mask"),
        ({"image": PNG, "markup": PNG}, "markup"),
    ],
)
async def test_bad_files_of_an_edit_are_named(tmp_path: Path, files: Any, field: str) -> None:
    async with open_api(tmp_path, start=False) as api:
        assert expect_error(await post_edit(api, files), 422, "invalid_request")["field"] == field


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "prompt"),
        ({"prompt": "a dog", "size": "1536x1024"}, "size"),
        ({"prompt": "a dog", "size": "100x100"}, "size"),
        ({"prompt": "a dog", "size": "0x64"}, "size"),
        ({"prompt": "a dog", "n": "2"}, "n"),
        ({"prompt": "a dog", "svg": {"model": "x"}}, "svg"),
        ({"prompt": "a dog", "image": "x"}, "image"),
        ([], "body"),
    ],
)
async def test_a_bad_field_of_a_generation_is_named(tmp_path: Path, body: Any, field: str) -> None:
    async with open_api(tmp_path, start=False, ingress=FLUX) as api:
        response = await api.http.post(GENERATIONS_PATH, json=body)
        assert expect_error(response, 422, "invalid_request")["field"] == field


async def test_another_type_of_body_and_too_large_a_one(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False, ingress={"photos": PhotoSettings(max_bytes=2048)}) as api:
        expect_error(await api.http.post(EDITS_PATH, json={"prompt": "x"}), 415, "unsupported_media_type")
        expect_error(await api.http.post(GENERATIONS_PATH, data={"prompt": "x"}), 415, "unsupported_media_type")
        large = {"image": ("a.png", PNG + bytes(4096))}
        assert expect_error(await post_edit(api, large), 413, "request_entity_too_large")["field"] == "image"
        huge = {"image": ("a.png", PNG + bytes(2**21))}
        expect_error(await post_edit(api, huge), 413, "request_entity_too_large")


async def test_a_defect_has_the_clients_form_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_api(tmp_path, start=False) as api:
        monkeypatch.setattr("ingress.routes.images.order_edits", lambda *_: 1 / 0)
        assert expect_error(await post_edit(api), 500, "internal")["error"]["type"] == "server_error"


async def test_the_openapi_document_describes_the_routes(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        document = (await api.http.get("/openapi.json")).json()
    assert "#/$defs" not in json.dumps(document)
    edit, generate = (document["paths"][path]["post"] for path in (EDITS_PATH, GENERATIONS_PATH))
    form = edit["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["prompt", "image"]
    assert form["properties"]["mask"]["format"] == "binary"
    assert form["properties"]["n"]["maximum"] == MAX_IMAGES
    for operation in (edit, generate):
        assert operation["responses"]["200"]["content"].keys() == {"application/json", "text/event-stream"}
        for status, answer in operation["responses"].items():
            assert int(status) < 400 or answer["content"].keys() == {"application/problem+json"}
