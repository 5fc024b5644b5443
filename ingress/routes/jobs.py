"""`/v1/jobs`: any image and mask, text to image, image to image."""

from __future__ import annotations

import logging
import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from ingress.callers import REFUSALS, Caller, Limited, OwnJob, name_owner
from ingress.job_bodies import REQUEST_BODY
from ingress.job_schemas import PATH, JobPage, JobResult, JobStatus, StatusName, make_order, show_status
from ingress.pages import read_page
from ingress.problems import describe_problem
from ingress.request_spans import note_jobs
from ingress.results import answer_result
from ingress.services import Provided
from ingress.uploads import read_job
from serve_app.errors import InvalidRequest
from serve_app.jobs.model import Status
from serve_app.jobs.submission import JobOrder

log = logging.getLogger(__name__)
router = APIRouter(prefix=PATH, tags=["jobs"])

KEY_HEADER = "Idempotency-Key"
_KEY = re.compile(r"[!-~]{1,255}")
MAX_PAGE = 100

UNKNOWN = describe_problem("No such job of the caller")
OUTAGE = describe_problem("A store does not answer; try again after Retry-After")
LOCATION = {"Location": {"description": "the job's status_url", "schema": {"type": "string"}}}
REPEATED: dict[str, Any] = {
    "model": JobStatus,
    "description": "The job that this Idempotency-Key has made before, finished meanwhile",
    "headers": LOCATION,
}


def read_idempotency_key(
    request: Request,
    key: Annotated[
        str | None,
        Header(
            alias=KEY_HEADER,
            description="1 to 255 visible ASCII characters; the same key and body give the same job again",
            json_schema_extra={"pattern": f"^{_KEY.pattern}$"},
        ),
    ] = None,
) -> str | None:
    """Raises InvalidRequest, before anything of the body is read."""
    keys = request.headers.getlist(KEY_HEADER)
    if len(keys) > 1 or (key is not None and not _KEY.fullmatch(key)):
        raise InvalidRequest(f"Send one {KEY_HEADER} of 1 to 255 visible ASCII characters, or none.", KEY_HEADER)
    return key


async def read_order(
    caller: Limited, key: Annotated[str | None, Depends(read_idempotency_key)], request: Request, services: Provided
) -> JobOrder:
    """The body, which FastAPI would read and parse before it asks any dependency who is calling."""
    upload = await read_job(request, services.settings.photos)
    return make_order(name_owner(caller), key, upload.wish, upload.images)


@router.post(
    "",
    status_code=202,
    response_model=JobStatus,
    openapi_extra=REQUEST_BODY,
    responses={
        200: REPEATED,
        202: {"description": "Accepted; whatever happens, the job will end", "headers": LOCATION},
        **REFUSALS,
        408: describe_problem("The body came too slowly"),
        409: describe_problem("The Idempotency-Key was used for another request"),
        413: describe_problem("The body, or an image, has more bytes than are accepted"),
        415: describe_problem("The body is neither JSON nor multipart/form-data, or is compressed"),
        422: describe_problem("The request is not acceptable; `detail` says why, `field` where"),
        503: OUTAGE,
    },
)
async def create_job(
    caller: Caller, order: Annotated[JobOrder, Depends(read_order)], services: Provided, response: Response
) -> JobStatus:
    """Ask for a job. It survives any crash once this has answered; ask for its status, or listen to its events."""
    job = await services.submitter.submit(order)
    note_jobs(job)
    log.info("a job is asked for", extra={"caller": name_owner(caller), "job": job.id, "operation": job.operation})
    services.nudge()
    view = show_status(job, services.settings)
    response.headers["Location"] = view.status_url
    response.status_code = 200 if job.status.is_final else 202
    return view


@router.get("", responses={**REFUSALS, 422: describe_problem("limit, cursor or status is none"), 503: OUTAGE})
async def list_jobs(
    caller: Caller,
    services: Provided,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="jobs on a page at most")] = 20,
    cursor: Annotated[str | None, Query(max_length=256, description="a page's next_cursor, for the page after")] = None,
    status: Annotated[StatusName | None, Query(description="only such jobs")] = None,
) -> JobPage:
    """Own jobs, newest first; sessions' edits are not among them. A page may be shorter than `limit`: the end is where
    `next_cursor` is null."""
    wanted = Status(status) if status else None
    page = await read_page(services.jobs, name_owner(caller), limit=limit, cursor=cursor, status=wanted)
    return JobPage(jobs=[show_status(job, services.settings) for job in page.jobs], next_cursor=page.next_cursor)


@router.get("/{job_id}", responses={**REFUSALS, 404: UNKNOWN, 422: describe_problem("No such id"), 503: OUTAGE})
async def show_job(job: OwnJob, services: Provided, response: Response) -> JobStatus:
    """A job as it is now."""
    response.headers["Cache-Control"] = "no-store"
    return show_status(job, services.settings)


@router.delete(
    "/{job_id}",
    responses={
        202: {"model": JobStatus, "description": "It is running, and stops within a step"},
        **REFUSALS,
        404: UNKNOWN,
        409: describe_problem("It had ended already"),
        422: describe_problem("No such id"),
        503: OUTAGE,
    },
)
async def cancel_job(caller: Caller, job: OwnJob, services: Provided, response: Response) -> JobStatus:
    """Cancel. 200: cancelled. 202: it is running and stops within a step. 409: it had ended already."""
    job = await services.jobs.cancel(job.id)
    note_jobs(job)
    log.info("a cancellation is asked for", extra={"caller": name_owner(caller), "job": job.id})
    response.status_code = 200 if job.status.is_final else 202
    return show_status(job, services.settings)


@router.get(
    "/{job_id}/result",
    response_class=Response,
    responses={
        200: {
            "description": "The image; as JSON where Accept names application/json",
            "content": {
                **{
                    f"image/{kind}": {"schema": {"type": "string", "format": "binary"}}
                    for kind in ("jpeg", "png", "webp")
                },
                "application/json": {"schema": JobResult.model_json_schema()},
            },
        },
        304: {"description": "The client has it: If-None-Match names its ETag"},
        **REFUSALS,
        404: UNKNOWN,
        409: describe_problem("Not finished, failed or cancelled: `job_status`, `job_error`"),
        410: describe_problem("Its time is over, its file is gone, or the session has been edited again"),
        422: describe_problem("No such id"),
        503: OUTAGE,
    },
)
async def show_result(
    job: OwnJob,
    services: Provided,
    accept: Annotated[str, Header(include_in_schema=False)] = "*/*",
    if_none_match: Annotated[str | None, Header(description="the ETag of what the client has")] = None,
) -> Response:
    """The image that a completed job has made; a session's edit gives the session's edited photo."""
    return await answer_result(services, job, accept, if_none_match)
