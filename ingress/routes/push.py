"""`POST /inpaint` and `POST /headshot/push`: what the push subscriptions call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from ingress import headshot_push, push
from ingress.auth import HEADSHOT_PUSH_PATH, verify_push
from ingress.problems import describe_problem, find_status
from ingress.request_spans import continue_trace, note_jobs
from ingress.schemas import PushMessage
from ingress.services import Provided, Services
from serve_app import metrics
from serve_app.errors import InvalidMessage, InvalidRequest, PawfectError
from serve_app.jobs.exhaustion import find_session
from serve_app.jobs.model import Job
from serve_app.metrics import Sink

router = APIRouter(tags=["push"])

PATH = "/inpaint"
HEADSHOT_PATH = HEADSHOT_PUSH_PATH
MAX_BODY_BYTES = 16 * 2**20
"""Pub/Sub's largest message, 10 MB, as base64 with its envelope."""


ANSWERS: dict[int | str, dict[str, Any]] = {
    204: {"description": "Acknowledged: the job has ended, or the message was of no use and is a dead letter"},
    400: describe_problem("Not a push envelope"),
    401: describe_problem("No valid token of the push subscription's account"),
    403: describe_problem("The token is of another account"),
    413: describe_problem("The body is too long"),
    503: describe_problem("Not finished yet, or paused by an operator: deliver it again"),
}
ENVELOPE = {
    "title": "PushEnvelope",
    "type": "object",
    "properties": {"message": PushMessage.model_json_schema(), "subscription": {"type": "string"}},
    "required": ["message"],
}
BODY = {"requestBody": {"content": {"application/json": {"schema": ENVELOPE}}}}


@router.post(PATH, status_code=push.ACKNOWLEDGED, response_class=Response, responses=ANSWERS, openapi_extra=BODY)
async def receive_push(request: Request, services: Provided) -> Response:
    """Edit the session named in a Pub/Sub push. 204 acknowledges: the job has ended, whether well or not, or the
    message was of no use and lies in the dead letters. 400: not a push. 401, 403: not from the subscription, and
    nothing was done. 503: not finished yet, deliver again."""
    return await _receive(request, services, lambda delivery: services.jobs.submit(push.read_order(delivery)))


@router.post(
    HEADSHOT_PATH, status_code=push.ACKNOWLEDGED, response_class=Response, responses=ANSWERS, openapi_extra=BODY
)
async def receive_headshot_push(request: Request, services: Provided) -> Response:
    """Make the headshot named in a Pub/Sub push, `{job_id, orig_bucket, orig_key}`; answered as `POST /inpaint` is."""
    return await _receive(request, services, lambda delivery: headshot_push.submit(services, delivery))


def declare_pushes(sink: Sink) -> None:
    """Have the series exist that alerts ask about, before the first push."""
    for status in (push.ACKNOWLEDGED, push.REDELIVER):
        sink.declare(metrics.PUSHES, status=str(status))
    sink.declare(metrics.DEAD_LETTERS, reason=InvalidMessage.code)


async def _receive(request: Request, services: Services, submit: Callable[[push.Push], Awaitable[Job]]) -> Response:
    status = int(HTTPStatus.INTERNAL_SERVER_ERROR)
    hung_up = False
    try:
        delivery = (await verify_push(request, services.trust)).push
        continue_trace(request, delivery.attributes)
        status = await _answer(services, delivery, submit)
    except PawfectError as error:
        status = int(find_status(error))
        raise
    except HTTPException as error:  # the body's limit
        status = error.status_code
        raise
    except asyncio.CancelledError:  # nobody is there to be answered
        hung_up = True
        raise
    finally:
        if not hung_up:
            services.sink.record(metrics.PUSHES, status=str(status))
    return Response(status_code=status)


async def _answer(services: Services, delivery: push.Push, submit: Callable[[push.Push], Awaitable[Job]]) -> int:
    """During a pause the job is stored all the same, and waits in the queue: Pub/Sub gives a message up after 100
    deliveries, which is some 15 hours, and a queued job loses no time to a pause."""
    try:
        job = await submit(delivery)
    except (InvalidMessage, InvalidRequest) as error:
        services.controls.check()  # it may be there because good messages are refused
        await _refuse(services, delivery, InvalidMessage(error.message))
        return push.ACKNOWLEDGED
    note_jobs(job)
    if not job.status.is_final:
        services.controls.check()
    services.nudge()
    return push.acknowledge(await services.jobs.wait(job.id, services.settings.jobs.push_wait_s))


async def _refuse(services: Services, delivery: push.Push, error: InvalidMessage) -> None:
    if await services.dead_letters.put(push.describe_refusal(delivery, error, services.clock.now())):
        services.sink.record(metrics.DEAD_LETTERS, reason=error.code)
    if (session := find_session(delivery.data)) is not None:
        await services.jobs.refuse(session, error.message)
