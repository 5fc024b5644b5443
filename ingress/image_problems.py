"""Errors of the OpenAI-compatible routes: a problem as everywhere, and in it the `error` that OpenAI's clients read."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from ingress.problems import MEDIA_TYPE, SCHEMA, problem
from serve_app.errors import Conflict, DeadlineExceeded, PawfectError
from serve_app.jobs.model import Job, Status

CLIENT_CLOSED = 499
"""Widely used for a request whose client has gone; nobody reads it but a log."""

NO_RETRY = {"x-should-retry": "false"}
"""OpenAI's clients repeat a request by themselves after 409 and some others, but not with this header."""

ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["message", "type", "param", "code"],
    "properties": {
        "message": {"type": "string"},
        "type": {"enum": ["invalid_request_error", "rate_limit_error", "server_error"]},
        "param": {"type": ["string", "null"]},
        "code": {"type": "string"},
    },
}


class Unsuccessful(PawfectError):
    """A job of the request ended without an image, or not in time."""

    def __init__(self, status: HTTPStatus, code: str, message: str, job_id: str) -> None:
        super().__init__(message)
        self.status = status
        self.error_code = code
        self.job_id = job_id


class ImageRoute(APIRoute):
    """Adds the `error` to whatever a route is refused with."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except ClientDisconnect:
                return Response(status_code=CLIENT_CLOSED)
            except Exception as error:
                return await explain(request, error)

        return answer


async def explain(request: Request, error: Exception) -> JSONResponse:
    """As the application answers that error, and the `error` in it."""
    if isinstance(error, Unsuccessful):
        answer = problem(error.status, error.error_code, error.message, job_id=error.job_id)
        if error.status is HTTPStatus.CONFLICT:
            answer.headers.update(NO_RETRY)
    else:
        handlers = request.app.exception_handlers
        answer = await next(handlers[kind] for kind in type(error).__mro__ if kind in handlers)(request, error)
    body = json.loads(bytes(answer.body))
    headers = {name: value for name, value in answer.headers.items() if name not in ("content-length", "content-type")}
    return JSONResponse(body | {"error": _write_error(body)}, answer.status_code, headers, MEDIA_TYPE)


def describe_error(description: str) -> dict[str, Any]:
    """An entry of a route's `responses`."""
    schema = {
        **SCHEMA,
        "title": "ImageProblem",
        "required": [*SCHEMA["required"], "error"],
        "properties": {**SCHEMA["properties"], "error": ERROR_SCHEMA},
    }
    return {"description": description, "content": {MEDIA_TYPE: {"schema": schema}}}


def require_success(job: Job, ended: Job | None) -> Job:
    """`ended` is None for a job that was not done in time. Raises Unsuccessful.

    One that came too late is answered 503: the request was all right, and may find less to wait for later.
    """
    if ended is None or ended.error_code == DeadlineExceeded.code:
        raise Unsuccessful(
            HTTPStatus.SERVICE_UNAVAILABLE,
            DeadlineExceeded.code,
            "The image was not done in the time that a request may wait; its job is cancelled. Try again later, or "
            "ask for it with POST /v1/jobs, which does not wait.",
            job.id,
        )
    if ended.status is Status.CANCELLED:
        raise Unsuccessful(HTTPStatus.CONFLICT, Conflict.code, f"Job {job.id} was cancelled by a call.", job.id)
    if ended.status is Status.FAILED:
        reason = ended.error or "The job failed."
        raise Unsuccessful(HTTPStatus.UNPROCESSABLE_ENTITY, ended.error_code or "failed", reason, job.id)
    return ended


def _write_error(body: dict[str, Any]) -> dict[str, Any]:
    kind = "server_error" if body["status"] >= 500 else "invalid_request_error"
    return {
        "message": body["detail"],
        "type": "rate_limit_error" if body["status"] == HTTPStatus.TOO_MANY_REQUESTS else kind,
        "param": body.get("field"),
        "code": body["type"].rpartition(":")[2],
    }
