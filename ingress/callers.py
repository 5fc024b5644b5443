"""Who calls, as the routes get to know it, and which jobs are theirs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, Path, Request

from ingress import auth
from ingress.auth import VerifiedCaller
from ingress.problems import describe_problem
from ingress.services import Provided
from serve_app.errors import NotFound
from serve_app.jobs.model import ID_PATTERN, Job

REFUSALS: dict[int | str, dict[str, Any]] = {
    401: describe_problem("No valid API key or Google identity token came as the bearer token"),
    403: describe_problem("The caller may not do this"),
    429: describe_problem("More than the caller may ask for at a time; Retry-After says when to try again"),
}


async def verify_caller(request: Request, services: Provided) -> VerifiedCaller:
    caller = await auth.verify_caller(request, services.trust)
    await services.limits.count_request(caller)
    return caller


Caller = Annotated[VerifiedCaller, Depends(verify_caller)]


async def limit_submissions(caller: Caller, services: Provided) -> AsyncIterator[VerifiedCaller]:
    async with services.submitting(caller):
        yield caller


Limited = Annotated[VerifiedCaller, Depends(limit_submissions)]
"""A caller who may submit a job now, for the routes that do; it has to come before what reads the body."""


def name_owner(caller: VerifiedCaller) -> str:
    """Under which name a caller's jobs are kept."""
    return caller.id


def may_touch(caller: VerifiedCaller, job: Job) -> bool:
    """Own jobs, and the edits of those users' sessions that the caller may touch."""
    if job.session is not None:
        return caller.allowance.covers(job.session.user_id)
    return job.owner == name_owner(caller)


async def find_own_job(
    caller: Caller,
    services: Provided,
    job_id: Annotated[str, Path(pattern=ID_PATTERN, examples=["job-0123456789abcdef0123456789abcdef"])],
) -> Job:
    """Raises NotFound for somebody else's job, too, in the same words: an id tells a stranger nothing."""
    job = await services.jobs.get(job_id)
    if not may_touch(caller, job):
        raise NotFound(f"There is no job {job_id}.")
    return job


OwnJob = Annotated[Job, Depends(find_own_job)]
"""The job that the path's `job_id` names; the caller is verified before it is looked for."""
