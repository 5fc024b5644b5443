"""Errors as `application/problem+json` (RFC 9457): one table from our errors to HTTP."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ingress.schemas import ID_RULE
from serve_app.errors import (
    CallerError,
    Conflict,
    Forbidden,
    Gone,
    InvalidEnvelope,
    InvalidRequest,
    NotFound,
    PawfectError,
    PermanentError,
    TooLarge,
    TooManyRequests,
    TransientError,
    Unauthenticated,
    UnsupportedImage,
)

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
LONGEST_NAME = 64
"""Characters of a field's name that are shown; an unknown field may be called anything."""
RETRY_AFTER_S = 5
"""Told to callers whose request may succeed later."""

SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "stable; to switch on", "examples": ["urn:pawfect:problem:conflict"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "a sentence for a person"},
        "field": {"type": "string", "description": "the part of the request at fault"},
    },
}

HEADERS: dict[int, dict[str, str]] = {
    HTTPStatus.REQUEST_TIMEOUT: {"Connection": "close"},  # RFC 9110, section 15.5.9: the rest may still be coming
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": "Bearer"},  # RFC 9110, section 15.5.2, and RFC 6750
    HTTPStatus.SERVICE_UNAVAILABLE: {"Retry-After": str(RETRY_AFTER_S)},
}

STATUS_OF: tuple[tuple[type[PawfectError], HTTPStatus], ...] = (
    (InvalidEnvelope, HTTPStatus.BAD_REQUEST),
    (UnsupportedImage, HTTPStatus.BAD_REQUEST),
    (Unauthenticated, HTTPStatus.UNAUTHORIZED),
    (Forbidden, HTTPStatus.FORBIDDEN),
    (TooManyRequests, HTTPStatus.TOO_MANY_REQUESTS),
    (NotFound, HTTPStatus.NOT_FOUND),
    (Conflict, HTTPStatus.CONFLICT),
    (Gone, HTTPStatus.GONE),
    (TooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (InvalidRequest, HTTPStatus.UNPROCESSABLE_ENTITY),
    (CallerError, HTTPStatus.BAD_REQUEST),
    (PermanentError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (TransientError, HTTPStatus.SERVICE_UNAVAILABLE),
)
"""First match counts; what matches none is ours to explain, and a 500."""


def problem(status: int, code: str, detail: str, **more: Any) -> JSONResponse:
    """`type` is stable per `code`; `detail` is a sentence for a person; `more` are extension members."""
    body = {
        "type": f"urn:pawfect:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **{name: value for name, value in more.items() if value is not None},
    }
    return JSONResponse(body, status, headers=HEADERS.get(status), media_type=MEDIA_TYPE)


def describe_problem(description: str) -> dict[str, Any]:
    """An answer of `problem`, as an entry of a route's `responses`."""
    return {"description": description, "content": {MEDIA_TYPE: {"schema": SCHEMA}}}


def describe_validation(errors: Sequence[Any]) -> str:
    """One sentence per wrong field, without the values, which may be anything."""
    return " ".join(f"{_name(error)}: {_explain(error)}." for error in errors[:10])


def _name(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"] if part not in ("body", "path", "query", "header")) or "body"
    return name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME] + "…"


def _explain(error: Any) -> str:
    if error["type"] == "string_pattern_mismatch" and "128" in error["ctx"]["pattern"]:
        return f"must be {ID_RULE}"
    return str(error["msg"]).removeprefix("Value error, ")


def install(app: FastAPI) -> None:
    app.add_exception_handler(PawfectError, _answer_ours)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(Exception, _answer_defect)


def find_status(error: Exception) -> HTTPStatus:
    """The status an error is answered with."""
    for kind, status in STATUS_OF:
        if isinstance(error, kind):
            return status
    return HTTPStatus.INTERNAL_SERVER_ERROR


async def _answer_ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, PawfectError)
    status = find_status(error)
    if status is HTTPStatus.INTERNAL_SERVER_ERROR:
        return await _answer_defect(request, error)
    answer = problem(status, error.code, error.message, field=getattr(error, "field", None))
    if isinstance(error, TooManyRequests):
        answer.headers["Retry-After"] = str(error.retry_after_s)
    return answer


async def _answer_validation(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    return problem(422, InvalidRequest.code, describe_validation(errors), field=_name(errors[0]) if errors else None)


async def _answer_http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).name.lower()
    return problem(error.status_code, code, str(error.detail))


async def _answer_defect(request: Request, error: Exception) -> JSONResponse:
    log.error("defect while answering", exc_info=error, extra={"path": request.url.path})
    return problem(500, "internal", "Something went wrong on our side; it has been logged.")
