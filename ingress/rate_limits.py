"""How much one caller may ask for: requests in a minute, and jobs that have not ended.

Requests are counted in this process's memory, so that n ingress replicas let n times as many through at worst, and a
restart begins anew. That is enough for what the count is for: to keep one caller that has run wild from taking the
service from the others. Jobs are counted in the store, which all replicas share.

A repeat under an idempotency key counts as any other request does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from ingress.auth import Visitor
from serve_app.clock import Clock, SystemClock
from serve_app.errors import TooManyRequests
from serve_app.jobs.model import Job, Status

READS_PER_SUBMISSION = 20
"""Requests of any kind for each that submits: a job's state may be asked for every few seconds while it runs."""

RECENT_JOBS = 16
"""Jobs looked at beyond those that may be under way, to measure how long a job takes. One under way that is older than
so many jobs of its caller that have ended is not counted."""

UNMEASURED_S = 10.0
"""Taken for the seconds from a job's coming to its end as long as no job of the caller has been completed."""

OVERDUE_SHARE = 0.25
"""A job that has taken longer than usual is expected within this share of the usual time: of no use to ask sooner."""


class OwnedJobs(Protocol):
    async def list_owned(self, owner: str, *, limit: int) -> Sequence[Job]:
        """A caller's jobs, newest first."""


class RateLimits:
    """Of one process and event loop."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        # Two counters for each caller. The exact window would keep the time of every request, and sweep with threads.
        self._windows = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._submitting: dict[str, list[float]] = {}

    async def count_request(self, caller: Visitor) -> None:
        """To be awaited for each request, of any kind. Raises TooManyRequests."""
        if (submissions := caller.allowance.requests_per_minute) is not None:
            await self._count("requests", caller.id, submissions * READS_PER_SUBMISSION)

    @asynccontextmanager
    async def submitting(self, caller: Visitor, jobs: OwnedJobs) -> AsyncIterator[None]:
        """Around what answers a request that submits a job. Raises TooManyRequests, and what `jobs` does.

        The edit of a session is nobody's own in the store; it is counted while its request waits.
        """
        allowance = caller.allowance
        if allowance.requests_per_minute is not None:
            await self._count("requests for work", caller.id, allowance.requests_per_minute)
        if allowance.concurrent_jobs is None:
            yield
            return
        others = self._submitting.setdefault(caller.id, [])
        began = self._clock.now()
        earlier = tuple(others)
        others.append(began)
        try:
            await self._require_place(caller.id, allowance.concurrent_jobs, earlier, jobs)
            yield
        finally:
            others.remove(began)
            if not others:
                self._submitting.pop(caller.id, None)

    async def _count(self, what: str, caller_id: str, per_minute: int) -> None:
        item = RateLimitItemPerMinute(per_minute)
        if await self._windows.hit(item, what, caller_id):
            return
        frees_at, _ = await self._windows.get_window_stats(item, what, caller_id)
        raise TooManyRequests(
            f"More than {per_minute} {what} came from {caller_id} within a minute.",
            _round_up(frees_at - self._clock.now()),
        )

    async def _require_place(self, owner: str, most: int, submitting: Sequence[float], jobs: OwnedJobs) -> None:
        """`submitting` are the times since when other requests of the owner are being answered."""
        found = await jobs.list_owned(owner, limit=most + RECENT_JOBS) if len(submitting) < most else ()
        active = count_active(found, submitting)
        if active >= most:
            raise TooManyRequests(
                f"{owner} has {active} jobs that have not ended; at most {most} are accepted at a time.",
                _round_up(expect_end(found, self._clock.now())),
            )


def count_active(jobs: Sequence[Job], submitting: Sequence[float]) -> int:
    """Jobs that have not ended, or are just being submitted. A request that is being answered and the job that came of
    it are one, and which job came of which request is not known: of both, since the first such request began, the
    larger number counts."""
    since = min(submitting, default=float("inf"))
    created = [job.created_at for job in jobs if not job.status.is_final]
    before = sum(time < since for time in created)
    return before + max(len(submitting), len(created) - before)


def expect_end(jobs: Sequence[Job], now: float) -> float:
    """Seconds until the oldest of the jobs under way ends, if it takes as long as the completed ones of `jobs` did on
    average, from their coming to their end: the time they waited for others is in it, and how many workers there are,
    which nobody here knows. A guess: jobs differ, and so do hours."""
    ended = [
        job.finished_at - job.created_at
        for job in jobs
        if job.status is Status.COMPLETED and job.finished_at is not None
    ]
    usual = sum(ended) / len(ended) if ended else UNMEASURED_S
    oldest = min((job.created_at for job in jobs if not job.status.is_final), default=now)
    return max(usual - (now - oldest), usual * OVERDUE_SHARE)


def _round_up(seconds: float) -> int:
    """Whole seconds (RFC 9110, section 10.2.3), at least one, and never so few that it would be too early."""
    return max(int(seconds) + 1, 1)
