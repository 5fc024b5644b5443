"""OpenAI's client around the real stores and runner, with images to send and ways to look at what came."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import openai
from PIL import Image

from ingress.image_schemas import EDITS_PATH
from serve_app.engines.protocol import EngineResult, Step
from serve_app.jobs.model import Job, Status
from serve_app.settings_sections import FluxSettings
from tests.api import Api, expect_problem
from tests.calls import Call
from tests.photos import encode, make_pixels

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
