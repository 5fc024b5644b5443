"""What becomes of a request for a headshot: a job, its end, and the links to what it made."""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ingress.auth import AnonymousCaller, Visitor
from ingress.headshot_bodies import ACCEPTED, read_photo, read_uploaded
from ingress.headshot_schemas import PATH, Headshot, show_accepted, show_headshot
from ingress.image_jobs import while_connected
from ingress.image_problems import CLIENT_CLOSED
from ingress.problems import problem
from ingress.request_spans import note_jobs
from ingress.services import Services
from serve_app.errors import (
    Conflict,
    Gone,
    HeadshotRejected,
    InvalidMessage,
    InvalidRequest,
    NotFound,
    ObjectMissing,
    ObjectReplaced,
    PhotoTooLarge,
    PhotoUnreadable,
    StoreUnavailable,
)
from serve_app.jobs.expiry import is_expired, list_images
from serve_app.jobs.headshot_links import ResultLinks, sign_results
from serve_app.jobs.headshot_orders import UploadOrder
from serve_app.jobs.model import ANONYMOUS, Job, Operation, Status

log = logging.getLogger(__name__)

PHOTO_FAULTS = {kind.code for kind in (HeadshotRejected, PhotoUnreadable, PhotoTooLarge, ObjectMissing, ObjectReplaced)}
"""Codes of jobs that would fail again, with this photo."""
JSON = "application/json"


async def submit(request: Request, services: Services, visitor: Visitor, key: str | None) -> Job:
    """Read the body and ask for its headshot. Raises what the body's readers and the submitter do, and InvalidRequest
    for a key without a caller: strangers share a name, so one could find another's job by guessing its key."""
    if key is not None and isinstance(visitor, AnonymousCaller):
        raise InvalidRequest("An Idempotency-Key needs a token; leave it out.", "Idempotency-Key")
    kind = _read_type(request)
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity" or kind not in ("multipart/form-data", JSON):
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"The body is {kind[:100] or 'of no type'}, coded as {coding[:100]}; {ACCEPTED}, or JSON with the job_id "
            "and orig_key of an upload; uncompressed.",
        )
    if kind == JSON:
        uploaded = await read_uploaded(request)
        bucket = services.headshots.bucket
        order = UploadOrder(uploaded.job_id, bucket, uploaded.orig_key, visitor.id)
        try:
            job = await services.headshots.submit_upload(order)
        except InvalidMessage as error:  # a request's words for the same
            raise InvalidRequest(error.message, "orig_key") from None
    else:
        photo = await read_photo(request, services.settings.photos, visitor.id, key)
        job = await services.headshots.submit_photo(photo)
    note_jobs(job)
    log.info("a headshot is asked for", extra={"caller": visitor.id, "job": job.id})
    services.nudge()
    return job


async def answer_when_done(
    request: Request, services: Services, visitor: Visitor, job: Job, key: str | None
) -> Response:
    """200 with the headshot; 202 when it takes longer than a request may wait; else why there is none. A caller who
    hangs up cancels the job, but for one that can be asked for again, by its key or its upload: it may be waited for
    elsewhere, and whoever comes back after a broken connection would find it cancelled for ever."""
    try:
        ended = await while_connected(request, services.jobs.wait(job.id, services.settings.jobs.push_wait_s))
    except ClientDisconnect:
        if key is None and _read_type(request) != JSON:
            await _cancel(services, job)
        return Response(status_code=CLIENT_CLOSED)
    if ended is None:
        return accept(await services.jobs.get(job.id))
    if ended.status is not Status.COMPLETED:
        return explain_failure(ended)
    body: Headshot = show_headshot(ended, await _sign(services, visitor, ended))
    return JSONResponse(body.model_dump(by_alias=True), headers={"Cache-Control": "no-store"})


def accept(job: Job) -> Response:
    body = show_accepted(job).model_dump()
    return JSONResponse(body, HTTPStatus.ACCEPTED, {"Location": f"{PATH}/{job.id}", "Cache-Control": "no-store"})


def explain_failure(job: Job) -> Response:
    """422 for what is wrong with the photo, with its quality and the reasons' codes; 409 after a cancellation; 503 when
    the job was not done in time; 500 for what is wrong here."""
    detail, code = job.error or "The job failed.", job.error_code or "failed"
    detail = detail if detail.endswith(".") else f"{detail}."
    if job.status is Status.CANCELLED:
        return problem(HTTPStatus.CONFLICT, Conflict.code, f"Job {job.id} was cancelled by a call.", job_id=job.id)
    if code == "deadline_exceeded":
        return problem(HTTPStatus.SERVICE_UNAVAILABLE, code, detail, job_id=job.id)
    quality = dict(job.headshot.quality) if job.headshot else None
    reasons = quality["reasons"] if quality and code == HeadshotRejected.code else None
    status = HTTPStatus.UNPROCESSABLE_ENTITY if code in PHOTO_FAULTS else HTTPStatus.INTERNAL_SERVER_ERROR
    return problem(status, code, detail, job_id=job.id, reasons=reasons, quality=quality)


async def find_headshot(services: Services, visitor: Visitor, job_id: str) -> Job:
    """Raises NotFound, in the same words, for a job that is not there, is no headshot, or not the visitor's to see."""
    job = await services.jobs.get(job_id)
    if job.operation is not Operation.HEADSHOT or not _may_see(visitor, job):
        raise NotFound(f"There is no job {job_id}.")
    return job


async def sign_if_done(services: Services, visitor: Visitor, job: Job) -> ResultLinks | None:
    """Raises Gone, StoreUnavailable."""
    return await _sign(services, visitor, job) if job.status is Status.COMPLETED else None


async def _sign(services: Services, visitor: Visitor, job: Job) -> ResultLinks:
    """Raises Gone when the files are being deleted, or may be at any moment."""
    if list_images(job) and is_expired(job, services.clock.now()):
        raise Gone(f"The headshot of job {job.id} was kept for its time, which is over; ask for it again.")
    return await sign_results(services.links, job, with_print=not isinstance(visitor, AnonymousCaller))


def _read_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _may_see(visitor: Visitor, job: Job) -> bool:
    """Own jobs; what was asked for without a token, for whoever knows its id; and what a message asked for, for callers
    who may touch every user's photos."""
    if job.owner in (visitor.id, ANONYMOUS):
        return True
    return not job.owner and not isinstance(visitor, AnonymousCaller) and visitor.allowance.covers_all


async def _cancel(services: Services, job: Job) -> None:
    try:
        await services.jobs.cancel(job.id)
    except (Conflict, NotFound):
        return  # it has ended
    except StoreUnavailable:
        log.warning("a headshot that nobody waits for is made all the same", extra={"job": job.id})
