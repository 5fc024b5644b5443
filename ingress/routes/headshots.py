"""`/headshot`: pet photos into black-and-white headshots on a transparent background."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response

from ingress.auth import Visitor, verify_visitor
from ingress.callers import REFUSALS
from ingress.headshot_bodies import REQUEST_BODY, UPLOAD_BODY, read_upload_request
from ingress.headshot_schemas import (
    ASYNC_PATH,
    PATH,
    Accepted,
    Headshot,
    HeadshotStatus,
    UploadRequest,
    UploadTicket,
    show_status,
)
from ingress.headshots import accept, answer_when_done, find_headshot, sign_if_done, submit
from ingress.problems import describe_problem
from ingress.routes.jobs import OUTAGE, read_idempotency_key
from ingress.services import Provided
from serve_app.jobs.headshot_names import draw_ticket
from serve_app.jobs.model import ID_PATTERN, Job

router = APIRouter(tags=["headshots"])

LOCATION = {"Location": {"description": "where the job is shown", "schema": {"type": "string"}}}
OVER = describe_problem("The headshot's time is over; it is about to be forgotten, with its files")
TOO_LARGE = describe_problem("The body, or the photo, has more bytes than are accepted")
BODY_REFUSALS: dict[int | str, dict[str, Any]] = {
    **REFUSALS,
    400: describe_problem("The file is none of the accepted types"),
    404: describe_problem("Nothing was uploaded under this job_id and orig_key"),
    408: describe_problem("The body came too slowly"),
    409: describe_problem("The Idempotency-Key, or job_id, belongs to another photo; or the job was cancelled"),
    413: TOO_LARGE,
    415: describe_problem("The body is neither multipart/form-data nor JSON, or is compressed"),
    503: OUTAGE,
}


async def verify(request: Request, services: Provided) -> Visitor:
    visitor = await verify_visitor(request, services.trust, services.settings)
    await services.limits.count_request(visitor)
    return visitor


Known = Annotated[Visitor, Depends(verify)]
Key = Annotated[str | None, Depends(read_idempotency_key)]


async def submit_headshot(visitor: Known, request: Request, services: Provided, key: Key) -> Job:
    """The body, which FastAPI would read and parse before it asks any dependency who is calling."""
    async with services.submitting(visitor):
        return await submit(request, services, visitor, key)


Submitted = Annotated[Job, Depends(submit_headshot)]


@router.post(
    PATH,
    response_model=Headshot,
    openapi_extra=REQUEST_BODY,
    responses={
        202: {"model": Accepted, "description": "It takes longer; ask for the job", "headers": LOCATION},
        **BODY_REFUSALS,
        410: OVER,
        422: describe_problem("The photo gives no headshot, or the request is not acceptable; `reasons` are codes"),
        500: describe_problem("It could not be made, for a reason of ours"),
    },
)
async def make_headshot(visitor: Known, job: Submitted, request: Request, services: Provided, key: Key) -> Response:
    """A headshot, waited for. Hanging up cancels it, unless it can be asked for again, by its key or its upload."""
    return await answer_when_done(request, services, visitor, job, key)


@router.post(
    ASYNC_PATH,
    status_code=202,
    response_model=Accepted,
    openapi_extra=REQUEST_BODY,
    responses={
        202: {"description": "Accepted; whatever happens, the job will end", "headers": LOCATION},
        **BODY_REFUSALS,
        422: describe_problem("The request is not acceptable; `detail` says why, `field` where"),
    },
)
async def ask_for_headshot(job: Submitted) -> Response:
    """Ask for a headshot. It survives any crash once this has answered."""
    return accept(job)


async def read_wish(_visitor: Known, request: Request) -> UploadRequest:
    """As above, after the caller is known."""
    return await read_upload_request(request)


@router.post(
    f"{PATH}/uploads",
    status_code=201,
    openapi_extra=UPLOAD_BODY,
    responses={
        **REFUSALS,
        408: describe_problem("The body came too slowly"),
        413: TOO_LARGE,
        422: describe_problem("content_type or file_name is not acceptable"),
        503: OUTAGE,
    },
)
async def open_upload(
    visitor: Known, wish: Annotated[UploadRequest, Depends(read_wish)], services: Provided
) -> UploadTicket:
    """A link that one photo can be sent to, for clients that would rather not send it through this service."""
    async with services.submitting(visitor):
        job_id = draw_ticket(visitor.id)
    place = services.headshots.choose_place(job_id, wish.file_name, wish.content_type)
    link = await services.links.sign_upload(place.path, wish.content_type, services.settings.photos.max_bytes)
    return UploadTicket(
        job_id=job_id,
        upload_url=link.url,
        method=link.method,
        headers=dict(link.headers),
        orig_bucket=place.bucket,
        orig_key=place.key,
        expires_at=link.expires_at,
    )


@router.get(
    f"{PATH}/{{job_id}}",
    response_model_exclude_none=True,
    responses={
        **REFUSALS,
        404: describe_problem("No such headshot of the caller"),
        410: OVER,
        422: describe_problem("No such id"),
        503: OUTAGE,
    },
)
async def show_headshot(
    visitor: Known,
    job_id: Annotated[str, Path(pattern=ID_PATTERN, examples=["headshot-0123456789abcdef0123456789abcdef"])],
    services: Provided,
    response: Response,
) -> HeadshotStatus:
    """A headshot as it is now, with new links once it is done."""
    job = await find_headshot(services, visitor, job_id)
    response.headers["Cache-Control"] = "no-store"
    return show_status(job, await sign_if_done(services, visitor, job))
