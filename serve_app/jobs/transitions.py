"""The one owner of a job's status: every legal change, as a pure function from a job to the next.

A store applies one of these inside a transaction and writes what it returns. Anything not listed in `LEGAL` is refused
with `Conflict`; a write by a worker that no longer holds the lease with `LeaseLost`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from serve_app.errors import (
    Conflict,
    Crashed,
    EngineFull,
    EngineUnavailable,
    HeadshotRejected,
    LeaseLost,
    PawfectError,
    StoreUnavailable,
    TransientError,
)
from serve_app.jobs.model import MAX_DELIVERIES, Headshot, Job, Lease, Progress, Status
from serve_app.settings_sections import JobSettings

LEGAL: Mapping[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.PROCESSING, Status.FAILED, Status.CANCELLED}),
    Status.PROCESSING: frozenset({Status.PROCESSING, Status.QUEUED, Status.COMPLETED, Status.FAILED, Status.CANCELLED}),
    # A finished job runs again only when a new message asks for it and its result does not stand any more.
    Status.COMPLETED: frozenset({Status.QUEUED}),
    Status.FAILED: frozenset({Status.QUEUED}),
    Status.CANCELLED: frozenset({Status.QUEUED}),
}

SUPERSEDED = "superseded by a newer request"

UNCOUNTED = (StoreUnavailable, EngineUnavailable)
"""Outages: nothing the job did, so they never add up to a failure; the deadline alone ends the waiting."""


End = Callable[[Job, str, float, bool], Job]
"""How a run ends: (job, token, now, superseded) → the job after it."""


FULL_SHARE = 1 / 4
"""Of the retry backoff, before a job tries again that met an engine without a place: one comes free within steps."""
OUTAGE_FACTOR = 5
"""Times the retry backoff between runs while something is out: each costs a download and a decode for nothing."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run that reached its end has to say."""

    stage_seconds: Mapping[str, float]
    engine: str
    engine_seconds: float
    gpu_seconds: float
    cost: float
    headshot: Headshot | None = None


def completing(outcome: Outcome) -> End:
    return lambda job, token, now, superseded: (
        cancel(_held(job, token), now, SUPERSEDED) if superseded else complete(job, token, now, outcome)
    )


def settling(error: PawfectError, settings: JobSettings) -> End:
    return lambda job, token, now, superseded: (
        cancel(_held(job, token), now, SUPERSEDED) if superseded else settle(job, token, now, error, settings)
    )


def _move(job: Job, status: Status, **changes: object) -> Job:
    if status not in LEGAL[job.status]:
        raise Conflict(f"Job {job.id} is {job.status}; it cannot become {status}.")
    # A store adds one to the version with the one write that follows this decision.
    return job.evolve(status=status, ended_version=job.version + 1 if status.is_final else None, **changes)


def _held(job: Job, token: str) -> Job:
    if job.status is not Status.PROCESSING or job.lease is None or job.lease.token != token:
        raise LeaseLost(f"Job {job.id} is {job.status} and not held by this worker any more.")
    return job


def join(job: Job, fresh: Job, delivery: str) -> Job:
    """Remember one more message that asked for the same job: it becomes as urgent as the most urgent of them, gets the
    time of the latest, is remembered for as long as any of them may come again, and a cancellation asked for before
    this message and not yet obeyed is void. It stays in the trace of the first."""
    return job.evolve(
        deliveries=(*job.deliveries, delivery)[-MAX_DELIVERIES:],
        priority=min(job.priority, fresh.priority),
        deadline_at=max(job.deadline_at, fresh.deadline_at),
        expires_at=max((at for at in (job.expires_at, fresh.expires_at) if at is not None), default=None),
        cancel_requested=False,
    )


def requeue(job: Job, fresh: Job, delivery: str) -> Job:
    """Run a finished job again from the start, for a new message; `fresh` is the job as that message describes it."""
    again = _move(join(job, fresh, delivery), Status.QUEUED)
    return fresh.evolve(deliveries=again.deliveries, version=job.version)


def renew(job: Job, fresh: Job, delivery: str) -> Job:
    """Have a job that has not ended begin anew, for a message about another photo; whoever runs it
    for the old one has lost it."""
    again = join(job, fresh, delivery).evolve(
        original_path=fresh.original_path,
        original_generation=fresh.original_generation,
        traceparent=fresh.traceparent,
    )
    return again if job.status is Status.QUEUED else _move(again, Status.QUEUED, lease=None, progress=None)


def claim(job: Job, token: str, now: float, settings: JobSettings, *, crashed: bool | None = None) -> Job:
    """Take a queued job, or one whose lease ran out; past its deadline or its last crash it is ended instead.

    A lease that ran out counts as a crash, unless the caller knows better.
    """
    lapsed = job.status is Status.PROCESSING
    crashed = lapsed if crashed is None else crashed
    if lapsed and job.lease is not None and job.lease.expires_at > now:
        raise Conflict(f"Job {job.id} is held until {job.lease.expires_at:.0f}.")
    job = job.evolve(crashes=job.crashes + crashed)
    if job.cancel_requested:
        return cancel(job, now, "cancelled")
    if now >= job.deadline_at:
        return expire(job, now)
    job = job.evolve(error=None, error_code=None)
    if job.crashes >= settings.max_crashes:
        return fail(job, now, Crashed.code, f"The worker died {job.crashes} times while editing this photo.")
    lease = Lease(token, now + settings.lease_s)
    return _move(job, Status.PROCESSING, lease=lease, attempts=job.attempts + 1, claimed_at=now, progress=None)


def beat(
    job: Job, token: str, now: float, progress: Progress | None, settings: JobSettings, *, due: bool = True
) -> Job:
    """Renew the lease and show progress. Returns the same object while there is nothing worth a write: no progress, and
    a renewal not `due`, which the worker tells by a clock that never jumps."""
    _held(job, token)
    if not due and progress == job.progress:
        return job
    return job.evolve(lease=Lease(token, now + settings.lease_s), progress=progress)


def complete(job: Job, token: str, now: float, outcome: Outcome) -> Job:
    _held(job, token)
    return _move(
        job,
        Status.COMPLETED,
        lease=None,
        progress=None,
        finished_at=now,
        stage_seconds=outcome.stage_seconds,
        gpu_seconds=outcome.gpu_seconds,
        cost=outcome.cost,
        headshot=outcome.headshot,
    )


def release(job: Job, token: str) -> Job:
    """Give a running job back unharmed, when its worker is being shut down."""
    _held(job, token)
    return _move(job, Status.QUEUED, lease=None, progress=None)


def obey(job: Job, token: str, now: float, superseded: bool) -> Job:
    """End a run that was interrupted: cancelled if that still is what is wanted, else queued to run again."""
    _held(job, token)
    if job.cancel_requested:
        return cancel(job, now, "cancelled")
    return cancel(job, now, SUPERSEDED) if superseded else release(job, token)


def settle(job: Job, token: str, now: float, error: PawfectError, settings: JobSettings) -> Job:
    """End a run that raised `error`: again later where that may help, failed with the reason where not."""
    _held(job, token)
    if isinstance(error, HeadshotRejected):
        job = job.evolve(headshot=Headshot(error.quality))
    if not isinstance(error, TransientError):
        return fail(job, now, error.code, error.message)
    if isinstance(error, EngineFull):
        return _move(
            job, Status.QUEUED, lease=None, progress=None, not_before=now + settings.retry_backoff_s * FULL_SHARE
        )
    if isinstance(error, UNCOUNTED):
        pause = settings.retry_backoff_s * OUTAGE_FACTOR
        return _move(job, Status.QUEUED, lease=None, progress=None, not_before=now + pause, error=error.message)
    failures = job.transient_failures + 1
    job = job.evolve(transient_failures=failures)
    if failures >= settings.max_transient:
        return fail(job, now, error.code, f"Failed {failures} times, the last time so: {error.message}")
    pause = settings.retry_backoff_s * 2 ** (failures - 1)
    return _move(job, Status.QUEUED, lease=None, progress=None, not_before=now + pause, error=error.message)


def fail(job: Job, now: float, code: str, message: str) -> Job:
    return _move(job, Status.FAILED, lease=None, progress=None, finished_at=now, error_code=code, error=message)


def expire(job: Job, now: float) -> Job:
    waited = job.deadline_at - job.created_at
    last = f" The last run ended so: {job.error}" if job.error else ""
    return fail(job, now, "deadline_exceeded", f"Not finished within {waited:.0f} s of its arrival.{last}")


def close(job: Job) -> Job:
    """Note that a finished job has been counted and, if it failed, its dead letter written."""
    return job.evolve(closed=True)


def request_cancel(job: Job, now: float) -> Job:
    """A queued job is cancelled at once; a running one is marked, and its worker obeys within a step."""
    if job.status is Status.QUEUED:
        return cancel(job, now, "cancelled")
    if job.status is not Status.PROCESSING:
        raise Conflict(f"Job {job.id} is already {job.status}; only a queued or running job can be cancelled.")
    return job if job.cancel_requested else job.evolve(cancel_requested=True)


def cancel(job: Job, now: float, reason: str) -> Job:
    return _move(
        job, Status.CANCELLED, lease=None, progress=None, finished_at=now, error_code="cancelled", error=reason
    )
