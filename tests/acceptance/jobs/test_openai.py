"""The official OpenAI client on the real service: draft and the tiny FLUX models, two ingress replicas."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator

import numpy as np
import openai
import pytest
from PIL import Image

from tests.acceptance.documented import DocumentedService
from tests.acceptance.jobs_service import JobsService
from tests.photos import encode, make_mask, make_photo, make_pixels

pytestmark = pytest.mark.serve


@pytest.fixture
async def client(jobs_service: JobsService) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{jobs_service.process.url}/v1", api_key="none", timeout=120) as client:
        yield client


def open_image(b64: str | None) -> Image.Image:
    assert b64 is not None
    return Image.open(io.BytesIO(base64.b64decode(b64)))


def make_transparent_mask() -> bytes:
    """As the client's own documentation has it: what is transparent is to be painted."""
    pixels = np.full((120, 160, 4), 255, np.uint8)
    pixels[30:50, 40:100, 3] = 0
    return encode(Image.fromarray(pixels, "RGBA"), "PNG")


@pytest.mark.parametrize("mask", [make_mask(), make_transparent_mask()])
@pytest.mark.parametrize("quality", ["auto", "low"])
async def test_an_edit_changes_what_is_masked_alone(client: openai.AsyncOpenAI, mask: bytes, quality: str) -> None:
    photo = encode(Image.fromarray(make_pixels()), "PNG")
    answer = await client.images.edit(
        image=("photo.png", photo),
        mask=("mask.png", mask),
        prompt="grass",
        quality=quality,  # type: ignore[call-overload]
    )
    edited = np.asarray(open_image(answer.data[0].b64_json).convert("RGB")).astype(int)
    change = np.abs(edited - make_pixels()).max(axis=2)
    assert change[32:48, 44:96].mean() > 1
    assert change[:20].max() == change[60:].max() == 0


async def test_several_edits_differ_by_their_seeds(client: openai.AsyncOpenAI) -> None:
    answer = await client.images.edit(
        image=("photo.jpg", make_photo()), mask=("mask.png", make_mask()), prompt="grass", n=2,
        quality="low", output_format="jpeg", extra_body={"seed": 5},
    )  # fmt: skip
    assert answer.data is not None
    first, second = (np.asarray(open_image(image.b64_json)).astype(int) for image in answer.data)
    assert np.abs(first - second).max() > 20


async def test_an_image_is_generated_and_streamed(client: openai.AsyncOpenAI) -> None:
    answer = await client.images.generate(prompt="a dog", model="flux-dev", size="256x256", extra_body={"steps": 3})  # type: ignore[call-overload]
    assert open_image(answer.data[0].b64_json).size == (256, 256)
    stream = await client.images.generate(
        prompt="a dog",
        model="flux-dev",
        size="256x256",
        stream=True,
        extra_body={"steps": 3},  # type: ignore[call-overload]
    )
    events = [event async for event in stream]
    assert events[-1].type == "image_generation.completed"
    assert open_image(events[-1].b64_json).size == (256, 256)


def test_streams_of_steps_are_as_documented(jobs_service: JobsService) -> None:
    documented = DocumentedService(jobs_service.process.url)
    generation = {"prompt": "a dog", "model": "flux-dev", "size": "256x256", "steps": 3, "stream": True}
    documented.call("POST /v1/images/generations", 200, body=generation)
    edit = {"prompt": "grass", "quality": "low", "image": make_photo(), "mask": make_mask(), "stream": "true"}
    answer = documented.call("POST /v1/images/edits", 200, body=edit, media_type="multipart/form-data")
    assert '"step": 1' in answer.text


async def test_the_models_are_those_that_run(client: openai.AsyncOpenAI) -> None:
    names = [model.id async for model in client.models.list()]
    assert {"draft", "flux-fill-dev", "flux-dev"} <= set(names)


async def test_errors_are_those_that_the_client_knows(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="model 'dall-e-9' is not known") as raised:
        await client.images.generate(prompt="a dog", model="dall-e-9")
    assert raised.value.param == "model"
