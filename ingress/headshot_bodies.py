"""How a headshot is asked for: a form with the photo, or JSON that names an upload. To be called for known callers."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from ingress.headshot_schemas import UploadedPhoto, UploadRequest
from ingress.uploads import SLACK_BYTES, explain, in_time, read_form
from serve_app.errors import InvalidRequest, TooLarge, UnsupportedImage
from serve_app.jobs.headshot_names import EXTENSIONS
from serve_app.jobs.headshot_orders import PhotoOrder
from serve_app.photos.media_types import find_headshot_type
from serve_app.settings_sections import PhotoSettings

Body = TypeVar("Body", bound=BaseModel)

FILE = "file"
MAX_JSON_BYTES = 16 * 2**10
"""A job's id and the name of an object take a few hundred; more would be parsed on the event loop."""
ACCEPTED = "send a JPEG, PNG, WebP or HEIC photo as file, in multipart/form-data"


def limit_photo(photos: PhotoSettings) -> int:
    """Bytes of a body with one photo."""
    return photos.max_bytes + SLACK_BYTES


async def read_photo(request: Request, photos: PhotoSettings, owner: str, key: str | None) -> PhotoOrder:
    """Raises what `read_form` does, InvalidRequest without a file, UnsupportedImage for one that is no such photo."""
    form = await read_form(request, (FILE,), photos)
    photo = form.files.get(FILE)
    if not photo:
        raise InvalidRequest(f"There is no photo; {ACCEPTED}.", FILE)
    if form.texts:
        raise InvalidRequest(
            f"{min(form.texts)[:64]} is not known; {ACCEPTED}, and nothing else.", min(form.texts)[:64]
        )
    media_type = find_headshot_type(photo)
    if media_type is None:
        raise UnsupportedImage(f"The file is not a photo this service reads; {ACCEPTED}.")
    return PhotoOrder(owner, photo, form.names.get(FILE) or "photo", media_type, key)


async def read_uploaded(request: Request) -> UploadedPhoto:
    """Raises InvalidRequest, RequestValidationError, and HTTPException for a slow body."""
    return await _read_json(request, UploadedPhoto)


async def read_upload_request(request: Request) -> UploadRequest:
    """Raises InvalidRequest, RequestValidationError, and HTTPException for a slow body."""
    return await _read_json(request, UploadRequest)


async def _read_json(request: Request, kind: type[Body]) -> Body:
    body = bytearray()
    async with in_time(), aclosing(request.stream()) as stream:
        async for piece in stream:  # the path's own limit is that of a photo
            body += piece
            if len(body) > MAX_JSON_BYTES:
                raise TooLarge(f"The body has more than the {MAX_JSON_BYTES} bytes of JSON that are accepted.")
    try:
        return kind.model_validate_json(bytes(body), strict=True)
    except ValidationError as error:
        raise explain(error, kind) from None


REQUEST_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "title": "HeadshotForm",
                    "type": "object",
                    "required": [FILE],
                    "properties": {FILE: {"type": "string", "format": "binary"}},
                    "additionalProperties": False,
                },
                "encoding": {FILE: {"contentType": ", ".join(EXTENSIONS)}},
            },
            "application/json": {"schema": UploadedPhoto.model_json_schema()},
        },
    }
}

UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": UploadRequest.model_json_schema()}}}
}
