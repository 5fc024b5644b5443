"""Files over HTTP: how one is sent, and how one is taken in."""

from __future__ import annotations

from contextlib import aclosing
from http import HTTPStatus

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from ingress.results import BYTES_PER_PIXEL, matches
from ingress.services import Services
from ingress.uploads import in_time
from serve_app.errors import Conflict, NotFound, ObjectMissing, PreconditionFailed, TooLarge
from serve_app.photos.links import write_disposition
from serve_app.photos.service_links import Grant
from serve_app.photos.store import ABSENT


async def send_file(services: Services, grant: Grant, known: str | None, *, has_body: bool) -> Response:
    """`known` is the header If-None-Match: 200, or 304. Raises NotFound."""
    generation = await services.photos.stat(grant.path)
    if generation == ABSENT:
        raise _is_missing(grant)
    headers = write_headers(grant, generation, services.clock.now())
    if known is not None and matches(known, headers["ETag"]):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    try:
        found = await services.photos.read(grant.path, max_bytes=services.settings.photos.max_pixels * BYTES_PER_PIXEL)
    except ObjectMissing:
        raise _is_missing(grant) from None
    headers = write_headers(grant, found.generation, services.clock.now())
    headers |= {"Content-Type": grant.content_type, "Content-Length": str(len(found.data))}
    return Response(found.data if has_body else b"", headers=headers)


def write_headers(grant: Grant, generation: str, now: float) -> dict[str, str]:
    """A cache may answer as long as the link would be let in, and nobody's but the client's own."""
    return {
        "ETag": f'"{generation}"',
        "Cache-Control": f"private, max-age={max(0, int(grant.expires_at - now))}",
        "Content-Disposition": write_disposition(grant.file_name),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",  # the URL is a credential
    }


async def take_file(services: Services, grant: Grant, request: Request) -> str:
    """Store the body, all of it or nothing, and give its generation. What is too large for anybody, `BodyLimit` has
    refused.

    Raises HTTPException for another type and for a slow body, Conflict where there is a file already, TooLarge,
    InvalidRequest for a body that breaks off.
    """
    _require_type(request, grant.content_type)
    if await services.photos.stat(grant.path) != ABSENT:
        raise _is_taken()
    data = await _read(request, grant.max_bytes)
    try:
        return await services.photos.write(grant.path, data, content_type=grant.content_type, expected=ABSENT)
    except PreconditionFailed:
        raise _is_taken() from None


async def _read(request: Request, max_bytes: int) -> bytes:
    announced = request.headers.get("content-length", "")
    data = bytearray()
    async with in_time(), aclosing(request.stream()) as stream:
        if announced.isdigit() and int(announced) > max_bytes:
            raise _is_too_large(max_bytes)
        async for piece in stream:
            data += piece
            if len(data) > max_bytes:
                raise _is_too_large(max_bytes)
    return bytes(data)


def _require_type(request: Request, accepted: str) -> None:
    kind = request.headers.get("content-type", "").strip().lower()
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if kind != accepted.lower() or coding != "identity":
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"The body is {kind[:100] or 'of no type'}, coded as {coding[:100]}; this link is for {accepted}, "
            "uncompressed.",
        )


def _is_missing(grant: Grant) -> NotFound:
    return NotFound(f"There is no file {grant.path.rpartition('/')[2]} under this link.")


def _is_taken() -> Conflict:
    return Conflict("There is a file under this link already; a link for an upload works once.")


def _is_too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"The body has more than the {max_bytes} bytes that this link is for.")
