"""The bodies of the OpenAI-compatible routes: how they are read, and as the OpenAPI document describes them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from ingress.image_schemas import FILE_NAMES, EditRequest, GenerationRequest
from ingress.job_bodies import describe_fields
from ingress.uploads import SLACK_BYTES, explain, in_time, read_form
from serve_app.errors import InvalidRequest
from serve_app.settings_sections import PhotoSettings


def limit_edit(photos: PhotoSettings) -> int:
    """Bytes of a body with an image and a mask, each as large as is accepted."""
    return 2 * photos.max_bytes + SLACK_BYTES


async def read_edit(request: Request, photos: PhotoSettings) -> tuple[EditRequest, bytes, bytes | None]:
    """The fields, the one image, and the mask if there is one. Raises what `read_form` does, RequestValidationError,
    and HTTPException for another type of body."""
    _require_type(request, "multipart/form-data")
    form = await read_form(request, FILE_NAMES, photos)
    images = [form.files[name] for name in FILE_NAMES if name in form.files and name != "mask"]
    if len(images) != 1:
        raise InvalidRequest(f"{len(images)} images came; send one file as image.", "image")
    try:
        wish = EditRequest.model_validate(form.texts)
    except ValidationError as error:
        raise explain(error, EditRequest) from None
    return wish, images[0], form.files.get("mask")


async def read_generation(request: Request) -> GenerationRequest:
    """Raises InvalidRequest, RequestValidationError, and HTTPException for a slow body or another type."""
    _require_type(request, "application/json")
    async with in_time():
        body = await request.body()
    try:
        return GenerationRequest.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise explain(error, GenerationRequest) from None


def _require_type(request: Request, accepted: str) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if kind != accepted or coding != "identity":
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"The body is {kind[:100] or 'of no type'}, coded as {coding[:100]}; send {accepted}, uncompressed.",
        )


def _describe_edit() -> dict[str, Any]:
    schema = EditRequest.model_json_schema()
    mask = "transparent, or where nothing is: white, marks what to repaint; of the image's proportions"
    files = {
        "image": {"type": "string", "format": "binary"},
        "mask": {"type": "string", "format": "binary", "description": mask},
    }
    required = [*schema["required"], "image"]
    return {**schema, "title": "EditForm", "required": required, "properties": {**describe_fields(schema), **files}}


EDIT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": _describe_edit(),
                "encoding": {name: {"contentType": "image/*"} for name in ("image", "mask")},
            }
        },
    }
}
GENERATION_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": GenerationRequest.model_json_schema(),
                "example": {"prompt": "a beagle on a lawn, morning light", "size": "1024x768", "n": 1, "seed": 7},
            }
        },
    }
}
