"""What a finished job gives back: the file itself, or the same as JSON."""

from __future__ import annotations

import binascii
from collections.abc import Iterator, Mapping
from http import HTTPStatus

from fastapi import Response
from fastapi.responses import StreamingResponse

from ingress.problems import problem
from ingress.services import Services
from serve_app.errors import Conflict, Gone, NotFound, ObjectMissing
from serve_app.jobs.model import Job, Status
from serve_app.photos.store import ABSENT

MAX_AGE_S = 86_400
"""So long at most a client's own cache may answer for us; a job's result never changes."""

PIECE_BYTES = 3 * 2**20
"""Encoded at once, a multiple of three: base64 of a whole photo would hold the interpreter for a tenth of a second."""

BYTES_PER_PIXEL = 4
"""No result's file has more: pixels as they are, with room for what a format adds."""


async def answer_result(services: Services, job: Job, accept: str, known: str | None) -> Response:
    """`accept` and `known` are the headers Accept and If-None-Match. 200, 304, or 409 while there is no result.

    Raises Gone when the result's time is over, when its file is gone, or when another edit took its place.
    """
    if job.status is not Status.COMPLETED:
        return explain_absence(job)
    await _require_current(services, job)
    as_json = prefers_json(accept)
    generation = await services.photos.stat(job.files.result)
    if generation == ABSENT:
        raise _is_gone(job)
    headers = write_headers(job, services.clock.now(), generation, as_json)
    if known is not None and matches(known, headers["ETag"]):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    try:
        found = await services.photos.read(
            job.files.result, max_bytes=services.settings.photos.max_pixels * BYTES_PER_PIXEL
        )
    except ObjectMissing:
        raise _is_gone(job) from None
    headers = write_headers(job, services.clock.now(), found.generation, as_json)
    if not as_json:
        return Response(found.data, media_type=_name_type(job), headers=headers)
    start, end = f'{{"job_id":"{job.id}","content_type":"{_name_type(job)}","image":"'.encode(), b'"}'
    length = len(start) + -(-len(found.data) // 3) * 4 + len(end)
    return StreamingResponse(
        _encode(start, found.data, end),
        media_type="application/json",
        headers={**headers, "Content-Length": str(length)},
    )


def explain_absence(job: Job) -> Response:
    """409: not finished, failed or cancelled; `job_status` and `job_error` are for programs."""
    if job.status in (Status.FAILED, Status.CANCELLED):
        detail = f"Job {job.id} is {job.status} and has no result: {(job.error or 'no reason').rstrip('.')}."
        return problem(HTTPStatus.CONFLICT, Conflict.code, detail, job_status=str(job.status), job_error=job.error_code)
    detail = f"Job {job.id} is {job.status}; its result comes when it is completed."
    return problem(HTTPStatus.CONFLICT, Conflict.code, detail, job_status=str(job.status))


def write_headers(job: Job, now: float, generation: str, as_json: bool) -> dict[str, str]:
    """Two representations have two tags (RFC 9110, section 8.8.3.3). A session's photo may be edited again."""
    caching = "private, no-cache"
    if job.session is None:
        left = MAX_AGE_S if job.expires_at is None else job.expires_at - now
        caching = f"private, max-age={max(0, min(MAX_AGE_S, int(left)))}, immutable"
    return {
        "ETag": f'"{generation}{"-json" if as_json else ""}"',
        "Cache-Control": caching,
        "Vary": "Accept, Authorization",
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": f'inline; filename="{job.id}.{"json" if as_json else job.parameters.output_format}"',
    }


def prefers_json(accept: str) -> bool:
    """Whether JSON is asked for by name, and no image is asked for more (RFC 9110, section 12.5.1)."""
    weights = _read_weights(accept)
    images = (weight for kind, weight in weights.items() if kind.startswith("image/"))
    json = weights.get("application/json", 0.0)
    return json > 0 and json >= max(images, default=0.0)


def _read_weights(accept: str) -> Mapping[str, float]:
    weights: dict[str, float] = {}
    for entry in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in entry.split(";"))
        weight = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        try:
            weights[kind] = float(weight)
        except ValueError:
            weights[kind] = 0.0
    return weights


async def _require_current(services: Services, job: Job) -> None:
    if job.session is None and job.expires_at is not None and services.clock.now() >= job.expires_at:
        raise Gone(f"The result of job {job.id} was kept for its time, which is over; ask for the job again.")
    if job.session is None:
        return
    try:
        document, _ = await services.jobs.find_session(job.session)
    except NotFound:
        raise _is_gone(job) from None
    if document.get("jobId") != job.id:
        raise Gone(f"The session has been edited again since job {job.id}; ask for the result of that edit.")


def _is_gone(job: Job) -> Gone:
    return Gone(f"The file with the result of job {job.id} is gone.")


def matches(known: str, tag: str) -> bool:
    """Weakly, as If-None-Match compares (RFC 9110, section 13.1.2)."""
    tags = [entry.strip().removeprefix("W/") for entry in known.split(",")]
    return "*" in tags or tag in tags


def _name_type(job: Job) -> str:
    return f"image/{job.parameters.output_format}"


def _encode(start: bytes, data: bytes, end: bytes) -> Iterator[bytes]:
    yield start
    for position in range(0, len(data), PIECE_BYTES):
        yield binascii.b2a_base64(data[position : position + PIECE_BYTES], newline=False)
    yield end
