"""The OpenAI-compatible routes, asked by the official client, around the real stores and runner."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from ingress import image_answers
from ingress.allowance import Allowance
from ingress.auth import VerifiedCaller
from ingress.image_schemas import EDITS_PATH, GENERATIONS_PATH, MAX_IMAGES
from serve_app.engines.protocol import EngineResult, Step
from serve_app.errors import EngineRejected, StoreUnavailable, Unauthenticated
from serve_app.jobs.model import Job, Operation, Status
from serve_app.settings_sections import FluxSettings, PhotoSettings
from tests.api import Api, NamedCallers, expect_problem, open_api
from tests.calls import Call
from tests.photos import encode, make_mask, make_pixels

FLUX = {"flux": FluxSettings(checkpoints={"flux-dev": "hub"})}
PNG = encode(Image.fromarray(make_pixels()), "PNG")
BOX = (40, 30, 100, 50)


def make_holes(transparent: bool = True) -> bytes:
    """A copy of the image in which the box is transparent; the colours under it are no mask."""
    image = Image.open(io.BytesIO(PNG)).convert("RGBA")
    if transparent:
        image.paste((0, 0, 0, 0), BOX)
    return encode(image, "PNG")


def open_image(b64: str | None) -> Image.Image:
    assert b64 is not None
    return Image.open(io.BytesIO(base64.b64decode(b64, validate=True)))


def find_changed(image: Image.Image) -> np.ndarray:
    return (np.asarray(image) != make_pixels()).any(axis=2)


def paint_picture(width: int = 1024, height: int = 1024) -> Callable[[Any], EngineResult]:
    return lambda _request: EngineResult((np.full((height, width, 3), 200, np.uint8),), 0.5, 2.0)


@asynccontextmanager
async def open_client(api: Api, **options: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        api_key="none", base_url="http://localhost/v1", http_client=api.http, max_retries=0, **options
    ) as client:
        yield client


async def list_jobs(api: Api, owner: str = "local") -> list[Job]:
    return list(await api.bench.service.list_owned(owner, limit=100))


async def until_jobs(api: Api, number: int, status: Status) -> list[Job]:
    async with asyncio.timeout(20):
        while True:
            jobs = [job for job in await list_jobs(api) if job.status is status]
            if len(jobs) == number:
                return jobs
            await asyncio.sleep(0.01)


def expect_error(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    body = expect_problem(response, status, code)
    assert body["error"]["message"] == body["detail"]
    assert (body["error"]["param"], body["error"]["code"]) == (body.get("field"), code)
    return body


async def post_edit(api: Api, files: dict[str, Any] | None = None, **fields: Any) -> httpx.Response:
    given = {"image": ("a.png", PNG), "mask": ("m.png", make_holes())} if files is None else files
    return await api.http.post(EDITS_PATH, files=given, data={"prompt": "grass", **fields})


# -- edits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [make_holes(), make_mask(box=BOX)], ids=["transparent", "white"])
async def test_an_edit_changes_what_the_mask_marks(tmp_path: Path, mask: bytes) -> None:
    async with open_api(tmp_path) as api, open_client(api) as client:
        answer = await client.images.edit(image=("a.png", PNG), mask=("m.png", mask), prompt="grass", model="draft")
        assert (answer.output_format, answer.size, answer.background) == ("png", "auto", "opaque")
        assert answer.usage is not None
        assert answer.usage.total_tokens == 0
        (job,) = await list_jobs(api)
        assert job.finished_at is not None
        assert answer.created == int(job.finished_at)
        assert answer.data is not None
        (image,) = answer.data
        assert (image.url, image.revised_prompt) == (None, None)
        changed = find_changed(open_image(image.b64_json))
        assert changed[35:45, 50:90].all()
        changed[BOX[1] - 3 : BOX[3] + 3, BOX[0] - 3 : BOX[2] + 3] = False
        assert not changed.any()


async def test_everything_that_the_client_documents_for_an_edit(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api, open_client(api) as client:
        answer = await client.images.edit(
            image=[("a.png", PNG)],
            mask=("m.png", make_holes()),
            prompt="grass",
            background="auto",
            input_fidelity="high",
            complexity="low",
            n=2,
            output_compression=80,
            output_format="webp",
            partial_images=0,
            quality="standard",
            response_format="b64_json",
            safety_identifier="x",
            size="1024x1024",
            stream=False,
            user="somebody",
            extra_body={"seed": 2**63 - 1, "steps": 3, "guidance_scale": 2.5, "priority": "urgent"},
        )
        assert answer.data is not None
        # With a mask the image keeps its size whatever size is wished for.
        assert [open_image(image.b64_json).size for image in answer.data] == [(160, 120)] * 2
        assert {open_image(image.b64_json).format for image in answer.data} == {"WEBP"}
        jobs = await list_jobs(api)
        assert {job.parameters.seed for job in jobs} == {2**63 - 1, 0}
        assert {(job.parameters.steps, job.parameters.guidance_scale, int(job.priority)) for job in jobs} == {
            (3, 2.5, 0)
        }
        assert {job.deadline_at - job.created_at for job in jobs} == {api.bench.settings.jobs.push_wait_s}


async def test_without_a_mask_the_whole_image_is_made_anew(tmp_path: Path) -> None:
    async with open_api(tmp_path, ingress=FLUX) as api, open_client(api) as client:
        api.engine.script.append(paint_picture(96, 64))
        answer = await client.images.edit(
            image=PNG, prompt="autumn", size="96x64", quality="hd", extra_body={"strength": 0.4}
        )
        assert answer.data is not None
        assert open_image(answer.data[0].b64_json).size == (96, 64)
        assert (answer.size, answer.quality) == ("96x64", "high")
        (job,) = await list_jobs(api)
        assert (job.operation, job.parameters.strength) == (Operation.TRANSFORM, 0.4)


async def test_an_edit_without_a_mask_says_what_is_missing(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api, open_client(api) as client:
        with pytest.raises(openai.UnprocessableEntityError, match="PAWFECT_FLUX__CHECKPOINTS") as caught:
            await client.images.edit(image=PNG, prompt="autumn")
        assert (caught.value.param, caught.value.code) == ("mask", "invalid_request")
        assert caught.value.type == "invalid_request_error"
        assert await list_jobs(api) == []


async def test_a_url_leads_to_the_result(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api, open_client(api) as client:
        answer = await client.images.edit(image=PNG, mask=make_holes(), prompt="grass", response_format="url")
        assert answer.data is not None
        assert answer.data[0].b64_json is None
        assert answer.data[0].url is not None
        assert answer.data[0].url.startswith("http://localhost/v1/jobs/job-")
        result = await api.http.get(answer.data[0].url)
        assert (result.status_code, result.headers["content-type"]) == (200, "image/png")


async def test_an_image_larger_than_one_piece_of_base64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_answers, "PIECE_BYTES", 300)
    async with open_api(tmp_path) as api, open_client(api) as client:
        answer = await client.images.edit(image=PNG, mask=make_holes(), prompt="grass", n=2)
        assert answer.data is not None
        assert [open_image(image.b64_json).size for image in answer.data] == [(160, 120)] * 2


# -- generations and models ------------------------------------------------------------------------------------------


async def test_everything_that_the_client_documents_for_a_generation(tmp_path: Path) -> None:
    async with open_api(tmp_path, ingress=FLUX) as api, open_client(api) as client:
        api.engine.script += [paint_picture(128, 96), paint_picture(128, 96)]
        answer = await client.images.generate(
            prompt="a dog",
            background="opaque",
            complexity="high",
            model="flux-dev",
            moderation="low",
            n=2,
            output_compression=100,
            output_format="jpeg",
            partial_images=2,
            quality="max",
            response_format="b64_json",
            safety_identifier="x",
            size="128x96",
            stream=False,
            style="vivid",
            user="x",
            extra_body={"seed": 7, "steps": 2, "guidance_scale": 3, "negative_prompt": "cat", "true_cfg": 2},
        )
        assert answer.data is not None
        assert [open_image(image.b64_json).size for image in answer.data] == [(128, 96)] * 2
        jobs = await list_jobs(api)
        assert {job.parameters.seed for job in jobs} == {7, 8}
        assert {(job.parameters.negative_prompt, job.parameters.true_cfg) for job in jobs} == {("cat", 2.0)}


async def test_nulls_are_as_good_as_nothing(tmp_path: Path) -> None:
    async with open_api(tmp_path, ingress=FLUX) as api, open_client(api) as client:
        api.engine.script.append(paint_picture())
        nothing: dict[str, Any] = dict.fromkeys(("model", "n", "size", "quality", "response_format", "output_format"))
        answer = await client.images.generate(prompt="a dog", stream=None, **nothing)
        assert (answer.size, answer.output_format) == ("1024x1024", "png")


async def test_generating_where_no_model_does_it_says_how_to_add_one(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api, open_client(api) as client:
        with pytest.raises(openai.UnprocessableEntityError, match="PAWFECT_FLUX__CHECKPOINTS") as caught:
            await client.images.generate(prompt="a dog")
        assert caught.value.param == "model"


async def test_the_models(tmp_path: Path) -> None:
    async with open_api(tmp_path, ingress=FLUX) as api, open_client(api) as client:
        models = [model async for model in client.models.list()]
        assert [(model.id, model.object) for model in models] == [("draft", "model"), ("flux-dev", "model")]
        assert (await client.models.retrieve("draft")).to_dict()["operations"] == ["ImageInpaint"]
        with pytest.raises(openai.NotFoundError, match="offered are draft, flux-dev") as caught:
            await client.models.retrieve("gpt-image-1")
        assert caught.value.code == "not_found"


# -- streams -------------------------------------------------------------------------------------------------------


async def test_a_streamed_edit_tells_its_progress_and_ends_with_the_image(tmp_path: Path) -> None:
    async with open_api(tmp_path, progress_interval_s=0) as api, open_client(api) as client:
        api.engine.gate.clear()
        opening = asyncio.create_task(open_gate(api))
        stream = await client.images.edit(
            image=PNG, mask=make_holes(), prompt="grass", n=2, stream=True, partial_images=2
        )
        events = await read_all(stream)
        await opening
        ends = [event for event in events if event.type == "image_edit.completed"]
        assert {event.type for event in events} == {"image_edit.progress", "image_edit.completed"}
        assert {event.stage for event in events if event.type == "image_edit.progress"} >= {"queue", "engine"}
        assert sorted(event.index for event in ends) == [0, 1]
        for end in ends:
            assert open_image(end.b64_json).size == (160, 120)
            assert (end.output_format, end.size, end.background) == ("png", "auto", "opaque")
            assert end.usage.total_tokens == 0
            assert end.created_at > 0


async def test_a_streamed_generation(tmp_path: Path) -> None:
    async with open_api(tmp_path, ingress=FLUX) as api, open_client(api) as client:
        api.engine.script.append(paint_picture())
        stream = await client.images.generate(prompt="a dog", stream=True)
        events = await read_all(stream)
        assert events[-1].type == "image_generation.completed"
        assert open_image(events[-1].b64_json).size == (1024, 1024)


async def test_a_stream_ends_with_its_error_and_cancels_the_rest(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api, open_client(api) as client:
        api.engine.script.append(EngineRejected("the prompt is too dull"))
        api.engine.script.append([Step(0, 1)])
        api.engine.run = hold_all_but_the_first(api)  # type: ignore[method-assign]
        stream = await client.images.edit(image=PNG, mask=make_holes(), prompt="grass", n=2, stream=True)
        with pytest.raises(openai.APIError, match="too dull") as caught:
            await read_all(stream)
        assert (caught.value.code, caught.value.type) == ("engine_rejected", "invalid_request_error")
        await until_jobs(api, 1, Status.CANCELLED)


async def test_a_quiet_stream_is_kept_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_answers, "KEEPALIVE_S", 0.01)
    async with open_api(tmp_path, start=False) as api:
        call = call_edit(api, stream="true")
        await call.until(lambda: call.text.count(": ") > 3)
        call.hang_up()
        await call.end()


# -- hanging up ----------------------------------------------------------------------------------------------------


def call_edit(api: Api, **fields: str) -> Call:
    files = {"image": ("a.png", PNG), "mask": ("m.png", make_holes())}
    return Call(api, EDITS_PATH, files, {"prompt": "grass", **fields})


def hold_all_but_the_first(api: Api) -> Any:
    """An engine that plays its script for the first request, and never answers the others."""
    play = api.engine.run

    async def run(request: Any) -> AsyncIterator[Any]:
        if api.engine.requests:
            yield Step(0, 1)
            await asyncio.Event().wait()
        async for event in play(request):
            yield event

    return run


async def read_all(stream: Any) -> list[Any]:
    return [event async for event in stream]


async def open_gate(api: Api) -> None:
    async with asyncio.timeout(20):
        while not any(job.progress and job.progress.stage == "engine" for job in await list_jobs(api)):
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    api.engine.gate.set()


@pytest.mark.parametrize("fields", [{}, {"stream": "true"}], ids=["waiting", "streaming"])
@pytest.mark.parametrize("way", ["hung up", "task cancelled"])
@pytest.mark.parametrize("start", [False, True], ids=["queued", "running"])
async def test_who_hangs_up_cancels_all_jobs(tmp_path: Path, fields: dict[str, str], way: str, start: bool) -> None:
    async with open_api(tmp_path, start=start) as api:
        api.engine.gate.clear()
        call = call_edit(api, n="2", **fields)
        await until_jobs(api, 2, Status.PROCESSING if start else Status.QUEUED)
        await asyncio.sleep(0.05)  # into its waiting
        if way == "hung up":
            call.hang_up()
            await call.end()
        else:
            call.task.cancel()
            await asyncio.gather(call.task, return_exceptions=True)
        await until_jobs(api, 2, Status.CANCELLED)
        assert "b64_json" not in call.text


async def test_who_leaves_while_the_jobs_are_being_written_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_api(tmp_path, start=False) as api:
        store, writing, go_on = api.bench.stores.jobs, asyncio.Event(), asyncio.Event()
        change = store.change

        async def change_slowly(job_id: str, session: Any, decide: Any) -> Any:
            writing.set()
            await go_on.wait()
            return await change(job_id, session, decide)

        monkeypatch.setattr(store, "change", change_slowly)
        call = call_edit(api, n="2")
        await asyncio.wait_for(writing.wait(), 20)
        call.task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(call.task, return_exceptions=True)
        assert [job.status for job in await list_jobs(api)] == [Status.CANCELLED] * 2


# -- what goes wrong -------------------------------------------------------------------------------------------------


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
