"""The OpenAI-compatible routes, asked by the official client, around the real stores and runner."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest

from ingress import image_answers
from serve_app.engines.protocol import Step
from serve_app.errors import EngineRejected
from serve_app.jobs.model import Operation, Status
from tests.api import open_api
from tests.photos import make_mask
from tests.unit.ingress.openai_client import (
    BOX,
    FLUX,
    PNG,
    call_edit,
    find_changed,
    hold_all_but_the_first,
    list_jobs,
    make_holes,
    open_client,
    open_gate,
    open_image,
    paint_picture,
    read_all,
    until_jobs,
)

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
