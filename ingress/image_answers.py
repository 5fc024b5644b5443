"""Finished images on the wire: one JSON answer, or server-sent events.

Base64 goes out piece by piece: a whole photo at once would hold the interpreter for a tenth of a second.
"""

from __future__ import annotations

import asyncio
import binascii
import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.sse import format_sse_event

from ingress.event_stream import EventStream
from ingress.events import KEEPALIVE, KEEPALIVE_S, describe
from ingress.image_events import UNTOLD
from ingress.image_jobs import WaitingJobs, while_connected
from ingress.image_orders import ImageOrder
from ingress.image_problems import explain
from ingress.image_schemas import ImageDetails
from ingress.job_schemas import PATH
from ingress.results import BYTES_PER_PIXEL, PIECE_BYTES
from ingress.services import Services
from serve_app.errors import Gone, ObjectMissing
from serve_app.jobs.model import Job

HEADERS = {"Cache-Control": "no-store"}


async def answer_images(request: Request, services: Services, order: ImageOrder) -> Response:
    """When all images are there; or, for a stream, when their jobs are accepted. A caller who hangs up cancels them.

    Raises Unsuccessful, ClientDisconnect, Gone, and what the submission raises.
    """
    if not order.wish.stream:
        return await while_connected(request, _collect(request, services, order))
    events = _stream(request, services, order)
    await anext(events)  # a refusal has a status of its own as long as nothing was sent
    return EventStream(events)


async def _collect(request: Request, services: Services, order: ImageOrder) -> Response:
    async with WaitingJobs(services, order) as waiting:
        jobs = await waiting.finish()
        answer = {"created": find_end(jobs[-1]), **_describe_image(jobs[0])}
        if order.wish.response_format == "url":
            urls = [f"{str(request.base_url).rstrip('/')}{PATH}/{job.id}/result" for job in jobs]
            return JSONResponse(
                {**answer, "data": [{"url": url, "revised_prompt": None} for url in urls]}, 200, HEADERS
            )
        images = await asyncio.gather(*(_read_result(services, job) for job in jobs))
    return StreamingResponse(write_answer(answer, images), 200, HEADERS, "application/json")


async def _stream(request: Request, services: Services, order: ImageOrder) -> AsyncGenerator[bytes]:
    """First a comment as soon as the jobs are accepted, then progress, and each image when it is done. An error is an
    event, too, and the last one.

    Events bear no id and no `retry`: OpenAI's client takes a blank line after one of these for an event without data.
    """
    async with WaitingJobs(services, order) as waiting:
        yield KEEPALIVE
        try:
            async with aclosing(waiting.follow(KEEPALIVE_S)) as turns:
                async for turn in turns:
                    if turn is None:
                        yield KEEPALIVE
                    elif turn[1].status.is_final:
                        for piece in await _complete(services, order, *turn):
                            yield piece
                    else:
                        yield _write_progress(order, *turn)
        except Exception as error:
            await waiting.cancel()
            body = json.loads(bytes((await explain(request, error)).body))
            yield format_sse_event(event="error", data_str=json.dumps({**body, "type": "error"}))


async def _complete(services: Services, order: ImageOrder, place: int, job: Job) -> Iterator[bytes]:
    name = f"{order.kind}.completed"
    values = {"type": name, "index": place, "created_at": find_end(job), **_describe_image(job)}
    return write_event(name, values, await _read_result(services, job))


def _write_progress(order: ImageOrder, place: int, job: Job) -> bytes:
    name, snapshot = f"{order.kind}.progress", asdict(describe(job).snapshot)
    values = {key: value for key, value in snapshot.items() if key not in UNTOLD}
    return format_sse_event(event=name, data_str=json.dumps({"type": name, "index": place, **values}))


def write_answer(answer: dict[str, Any], images: Sequence[bytes]) -> Iterator[bytes]:
    yield json.dumps(answer).encode()[:-1] + b', "data": ['
    for place, image in enumerate(images):
        yield (b", " if place else b"") + b'{"b64_json": "'
        yield from _encode(image)
        yield b'", "revised_prompt": null}'
    yield b"]}"


def write_event(name: str, values: dict[str, Any], image: bytes) -> Iterator[bytes]:
    yield f"event: {name}\ndata: ".encode() + json.dumps(values).encode()[:-1] + b', "b64_json": "'
    yield from _encode(image)
    yield b'"}\n\n'


def find_end(job: Job) -> int:
    """When its image was made, a Unix time."""
    return int(job.finished_at or job.created_at)


def _describe_image(job: Job) -> dict[str, Any]:
    parameters = job.parameters
    size = f"{parameters.width}x{parameters.height}" if parameters.width and parameters.height else "auto"
    values: dict[str, Any] = {"output_format": parameters.output_format, "quality": parameters.quality, "size": size}
    return ImageDetails(**values).model_dump()


async def _read_result(services: Services, job: Job) -> bytes:
    try:
        found = await services.photos.read(
            job.files.result, max_bytes=services.settings.photos.max_pixels * BYTES_PER_PIXEL
        )
    except ObjectMissing:
        raise Gone(f"The file with the result of job {job.id} is gone.") from None
    return found.data


def _encode(data: bytes) -> Iterator[bytes]:
    for position in range(0, len(data), PIECE_BYTES):
        yield binascii.b2a_base64(data[position : position + PIECE_BYTES], newline=False)
