"""A job's snapshots as server-sent events, and the stream of them."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict, dataclass

from fastapi.sse import format_sse_event

from ingress.job_schemas import PATH
from serve_app.jobs.model import Job, Progress, Stage, Status
from serve_app.jobs.service import JobService

KEEPALIVE_S = 15.0
"""A comment after so long without an event, as the standard advises (9.2.7): proxies close what looks dead."""
LIFETIME_S = 540.0
"""A stream's seconds, after which its client comes again; below Serve's `request_timeout_s`, which would cut it off."""
RETRY_MS = (1000, 3000)
"""A client's pause before it comes again, drawn from this range: those cut off together do not return together."""

KEEPALIVE = format_sse_event(comment="")
COME_AGAIN = format_sse_event(comment="come again with Last-Event-ID")

FINAL_NAMES = {Status.COMPLETED: "done", Status.FAILED: "failed", Status.CANCELLED: "cancelled"}
NAMES = ("queued", "stage", "step", "decoding", *FINAL_NAMES.values())


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a job failed or was cancelled: `code` is stable, `message` a sentence."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What an event says. `status` is the job's own; `stage` is None once it has ended.

    `step` of `steps` are done, None before the engine has begun; `eta_s`: seconds until its result, as far as that was
    measured; `position` requests go first in the engine. `result_url` is a path, given once there is a result.
    """

    job_id: str
    status: str
    stage: str | None
    step: int | None
    steps: int | None
    eta_s: float | None
    position: int | None
    error: Reason | None
    result_url: str | None


@dataclass(frozen=True, slots=True)
class Event:
    """`id` grows with the job's versions, and is the same for a job's end whenever that is told."""

    id: int
    name: str
    snapshot: Snapshot


def describe(job: Job) -> Event:
    """Names: queued (in the store, or in the engine with a position), step, decoding; stage for the work before,
    between and after these; done, failed, cancelled."""
    progress = job.progress or Progress(Stage.QUEUE)
    has_steps = progress.steps > 0
    has_failed = job.status in (Status.FAILED, Status.CANCELLED)
    snapshot = Snapshot(
        job_id=job.id,
        status=str(job.status),
        stage=None if job.status.is_final else str(progress.stage),
        step=progress.step if has_steps else None,
        steps=progress.steps if has_steps else None,
        eta_s=progress.eta_s,
        position=progress.position,
        error=Reason(job.error_code or "failed", job.error or "") if has_failed else None,
        result_url=f"{PATH}/{job.id}/result" if job.status is Status.COMPLETED else None,
    )
    return Event(find_id(job), _name(job.status, progress), snapshot)


def find_id(job: Job) -> int:
    """The id of the event that tells this state of the job."""
    return job.ended_version or job.version


def _name(status: Status, progress: Progress) -> str:
    if status.is_final:
        return FINAL_NAMES[status]
    if status is Status.QUEUED or progress.position is not None:
        return "queued"
    if progress.decoding:
        return "decoding"
    return "step" if progress.steps > 0 else "stage"


def encode(event: Event) -> bytes:
    data = json.dumps(asdict(event.snapshot), separators=(",", ":"))
    return format_sse_event(event=event.name, data_str=data, id=str(event.id))


def read_after(job: Job, last_event_id: int) -> int:
    """The id after which a client wants to hear more; 0, all, for one beyond the job's versions: another job's."""
    return last_event_id if last_event_id <= job.version else 0


def has_heard_all(job: Job, last_event_id: int) -> bool:
    """Whether that id was the one of the job's end."""
    return job.status.is_final and find_id(job) <= read_after(job, last_event_id)


async def stream(
    job: Job,
    last_event_id: int,
    jobs: JobService,
    *,
    keepalive_s: float = KEEPALIVE_S,
    lifetime_s: float = LIFETIME_S,
) -> AsyncGenerator[bytes]:
    """The job's encoded events with an id above the last one, ending with its end; a snapshot that says nothing new is
    left out. Ends early, with a comment, after `lifetime_s` or when this process stops waiting for jobs."""
    told, after = None, read_after(job, last_event_id)
    yield format_sse_event(retry=random.randint(*RETRY_MS))
    async with aclosing(_take_turns(jobs, job.id, keepalive_s, lifetime_s)) as turns:
        async for found in turns:
            event = describe(found) if found is not None else None
            is_end = found is not None and found.status.is_final
            if event is None or (not is_end and (event.id <= after or (event.name, event.snapshot) == told)):
                yield KEEPALIVE
                continue
            yield encode(event)
            if is_end:
                return
            told, after = (event.name, event.snapshot), event.id
    yield COME_AGAIN


async def _take_turns(
    jobs: JobService, job_id: str, keepalive_s: float, lifetime_s: float
) -> AsyncGenerator[Job | None]:
    """The watched job whenever it changes, None whenever `keepalive_s` passed without; ends with the watch, after
    `lifetime_s`, or when the service stops waiting."""
    clock = asyncio.get_running_loop().time
    ends_at = clock() + lifetime_s
    stopped = asyncio.create_task(jobs.await_stop())
    changed: asyncio.Task[Job | None] | None = None
    async with aclosing(jobs.watch(job_id)) as watch:
        try:
            while (left := ends_at - clock()) > 0:
                changed = changed or asyncio.create_task(_take_next(watch))
                await asyncio.wait(
                    {changed, stopped}, timeout=min(keepalive_s, left), return_when=asyncio.FIRST_COMPLETED
                )
                if changed.done():
                    found, changed = changed.result(), None
                    if found is None:
                        return
                    yield found
                elif stopped.done():
                    return
                else:
                    yield None
        finally:
            tasks = [task for task in (changed, stopped) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _take_next(watch: AsyncGenerator[Job]) -> Job | None:
    return await anext(watch, None)
