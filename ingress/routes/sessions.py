"""`/v1/users/{userId}/sessions/{sessionId}/edit`: the same job as a push asks for, for internal callers."""

from __future__ import annotations

import base64
import json
import logging
import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from ingress.callers import REFUSALS, Caller, Limited
from ingress.problems import describe_problem, problem
from ingress.request_spans import note_jobs
from ingress.schemas import PRIORITIES, EditOptions, SessionView, show_session
from ingress.services import Provided
from serve_app.errors import Conflict, Forbidden, InvalidRequest, NotFound
from serve_app.jobs.model import ID_PATTERN, Job, Session, Status
from serve_app.jobs.service import EditOrder

log = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/users/{userId}/sessions/{sessionId}", tags=["sessions"])


async def read_options(_caller: Caller, request: Request) -> EditOptions:
    """The body, which FastAPI would read and parse before it asks any dependency who is calling."""
    body = await request.body()
    if not body:
        return EditOptions()
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise InvalidRequest("Send the options as application/json.")
    try:
        return EditOptions.model_validate_json(body)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None


def name_session(
    caller: Caller,
    user_id: Annotated[str, Path(alias="userId", pattern=ID_PATTERN)],
    session_id: Annotated[str, Path(alias="sessionId", pattern=ID_PATTERN)],
) -> Session:
    """Raises Forbidden for a user whose sessions are none of the caller's business."""
    if not caller.allowance.covers(user_id):
        raise Forbidden(f"{caller.id} may not touch the sessions of user {user_id}.")
    return Session(user_id, session_id)


Named = Annotated[Session, Depends(name_session)]
OPTIONS_BODY = {"requestBody": {"content": {"application/json": {"schema": EditOptions.model_json_schema()}}}}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    **REFUSALS,
    404: describe_problem("No such session"),
    409: describe_problem("The edit was cancelled, or had ended already"),
    422: describe_problem("The edit failed, or the request is not acceptable; `detail` says why"),
    503: describe_problem("The job store does not answer; come again"),
}


@router.post(
    "/edit",
    response_model=SessionView,
    responses={202: {"model": SessionView}, **PROBLEMS},
    openapi_extra=OPTIONS_BODY,
)
async def edit_session(
    caller: Limited, session: Named, services: Provided, options: Annotated[EditOptions, Depends(read_options)]
) -> SessionView | Response:
    """Edit the session's photo and wait. 200: the session, completed. 202: still running, ask again with GET."""
    await services.jobs.find_session(session)
    job = await services.jobs.submit(_make_order(session, options))
    note_jobs(job)
    log.info("an edit is asked for", extra={"caller": caller.id, "job": job.id})
    services.nudge()
    ended = await services.jobs.wait(job.id, services.settings.jobs.push_wait_s)
    if ended is not None and ended.status is not Status.COMPLETED:
        return _explain(ended)
    document, shown = await services.jobs.find_session(session)
    view = show_session(session, document, ended or shown)
    return view if ended is not None else JSONResponse(view.model_dump(), 202)


@router.get("/edit", response_model=SessionView, responses=PROBLEMS)
async def show_edit(_caller: Caller, session: Named, services: Provided) -> SessionView:
    """The session's state and its job, with live progress."""
    document, job = await services.jobs.find_session(session)
    return show_session(session, document, job)


@router.delete("/edit", response_model=SessionView, responses={202: {"model": SessionView}, **PROBLEMS})
async def cancel_edit(caller: Caller, session: Named, services: Provided, response: Response) -> SessionView:
    """Cancel. 200: cancelled. 202: it is running and stops within a step. 409: it had ended already."""
    document, job = await services.jobs.find_session(session)
    if job is None:
        raise NotFound(f"Session {session.session_id} has no edit to cancel.")
    job = await services.jobs.cancel(job.id)
    note_jobs(job)
    log.info("a cancellation is asked for", extra={"caller": caller.id, "job": job.id})
    document, _ = await services.jobs.find_session(session)
    response.status_code = 200 if job.status.is_final else 202
    return show_session(session, document, job)


def _make_order(session: Session, options: EditOptions) -> EditOrder:
    # In the dead letters it looks like the push that would have asked for the same, and can be replayed as one.
    ids = {"userId": session.user_id, "sessionId": session.session_id}
    message = {**ids, **options.model_dump(exclude_none=True, exclude_defaults=True)}
    return EditOrder(
        session=session,
        delivery=f"http-{uuid.uuid4().hex}",
        message=base64.b64encode(json.dumps(message).encode()).decode(),
        prompt=options.prompt,
        steps=options.steps,
        guidance_scale=options.guidance_scale,
        seed=options.seed,
        quality=options.quality,
        priority=PRIORITIES[options.priority],
    )


def _explain(job: Job) -> Response:
    if job.status is Status.CANCELLED:
        return problem(409, Conflict.code, f"The edit was {job.error}.", jobId=job.id)
    return problem(422, job.error_code or "failed", job.error or "The edit failed.", jobId=job.id)
