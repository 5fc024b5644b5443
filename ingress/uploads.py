"""Bodies with images: JSON with base64, or multipart/form-data with files. Call these once the caller is verified.

Nothing is put on disk: `BodyLimit` bounds what a request can take of memory, and a read-only root has no place for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from ingress.base64_images import check_size, decode_image
from ingress.job_schemas import IMAGE_FIELDS, JobRequest, JobRequestJson
from serve_app.errors import InvalidRequest
from serve_app.settings_sections import PhotoSettings

BODY_TIMEOUT_S = 60.0
"""A whole body at most: the largest one at 18 Mbit/s. Whoever drips bytes holds memory for no longer."""

SLACK_BYTES = 2**20
"""Of a body, beside its images: fields, boundaries, line breaks in base64."""

MAX_TEXT_PARTS = 32
"""A request has about 20 fields."""

MAX_TEXT_BYTES = 64 * 2**10
"""A prompt of two thousand characters takes at most eight thousand."""

ACCEPTED = "send application/json, or multipart/form-data with the images as files"


@dataclass(frozen=True, slots=True)
class Upload:
    """A request whose fields are in range, and its images: files of at most the configured size, by field."""

    wish: JobRequest
    images: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Form:
    """`names` are what the sender calls the files."""

    texts: Mapping[str, str]
    files: Mapping[str, bytes]
    names: Mapping[str, str] = field(default_factory=dict)


def limit_body(photos: PhotoSettings) -> int:
    """Bytes of a body with two images in base64, each as large as is accepted."""
    return 2 * -(-photos.max_bytes * 4 // 3) + SLACK_BYTES


async def read_job(request: Request, photos: PhotoSettings) -> Upload:
    """Raises InvalidRequest, RequestValidationError, TooLarge, and HTTPException for a slow body or another type."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise _refuse_type(f"The body is {coding[:100]}; send it uncompressed.")
    if kind == "application/json":
        return await _read_json_job(request, photos)
    if kind == "multipart/form-data":
        return await _read_form_job(request, photos)
    raise _refuse_type(f"The body's type is {kind[:100] or 'not given'}; {ACCEPTED}.")


async def read_form(request: Request, file_names: Collection[str], photos: PhotoSettings) -> Form:
    """A multipart/form-data body with files of at most the configured size under `file_names` and any text fields.

    Raises InvalidRequest for what cannot be read, a name that comes twice, a file where text belongs and text where a
    file does; TooLarge. Fields left empty, as forms send them, count as left out.
    """
    async with in_time(), aclosing(request.stream()) as stream:
        parser = _FormParser(
            request.headers, stream, max_files=len(file_names), max_fields=MAX_TEXT_PARTS, max_part_size=MAX_TEXT_BYTES
        )
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise InvalidRequest(
                f"The multipart body cannot be read: {error.message.rstrip('.')}; accepted are files as "
                f"{' and '.join(file_names)}, and up to {MAX_TEXT_PARTS} text fields of {MAX_TEXT_BYTES} bytes."
            ) from None
    try:
        if not parser.is_complete:
            raise InvalidRequest("The multipart body ends before its closing boundary.")
        return await _sort_parts(form, file_names, photos)
    finally:
        await form.close()


class _FormParser(MultiPartParser):
    """One that keeps files in memory, and knows whether it has seen the end."""

    spool_max_size = 2**40
    is_complete = False

    def on_end(self) -> None:
        self.is_complete = True


async def _read_json_job(request: Request, photos: PhotoSettings) -> Upload:
    async with in_time():
        body = await request.body()
    try:
        wish = JobRequestJson.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise explain(error, JobRequestJson) from None
    texts = {name: text for name in IMAGE_FIELDS if (text := getattr(wish, name)) is not None}
    images = await asyncio.gather(*(decode_image(text, name, photos) for name, text in texts.items()))
    return Upload(wish, dict(zip(texts, images, strict=True)))


async def _read_form_job(request: Request, photos: PhotoSettings) -> Upload:
    form = await read_form(request, IMAGE_FIELDS, photos)
    try:
        return Upload(JobRequest.model_validate(form.texts), form.files)
    except ValidationError as error:
        raise explain(error, JobRequest) from None


async def _sort_parts(form: FormData, file_names: Collection[str], photos: PhotoSettings) -> Form:
    texts: dict[str, str] = {}
    files: dict[str, bytes] = {}
    names: dict[str, str] = {}
    for name, value in form.multi_items():
        shown = name[:64]
        if name in texts or name in files:
            raise InvalidRequest(f"{shown} comes more than once.", shown)
        if isinstance(value, UploadFile) and name not in file_names:
            raise InvalidRequest(f"{shown} came as a file; files are {' and '.join(file_names)} alone.", shown)
        if isinstance(value, UploadFile):
            check_size(name, value.size or 0, photos)
            if value.size or value.filename:
                files[name] = await value.read()
                names[name] = value.filename or ""
        elif value and name in file_names:
            raise InvalidRequest(f"{name} came as text; send it as a file, with a filename.", name)
        elif value:
            texts[name] = value
    return Form(texts, files, names)


@asynccontextmanager
async def in_time() -> AsyncIterator[None]:
    """Around the reading of a body. Raises HTTPException 408 for one that comes too slowly, InvalidRequest for one that
    breaks off."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            yield
    except TimeoutError:
        raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, f"The body did not come within {BODY_TIMEOUT_S:g} s.") from None
    except ClientDisconnect:
        raise InvalidRequest("The connection ended before the body did.") from None


def explain(error: ValidationError, model: type[BaseModel]) -> RequestValidationError:
    """The same as FastAPI's own, without what was sent, which may be a photo, and with the fields that are known."""
    accepted = f"Unknown field; accepted are {', '.join(model.model_fields)}"
    details = error.errors(include_url=False, include_input=False)  # the input may be a photo
    return RequestValidationError(
        [{**detail, "msg": accepted} if detail["type"] == "extra_forbidden" else dict(detail) for detail in details]
    )


def _refuse_type(detail: str) -> HTTPException:
    return HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail)
