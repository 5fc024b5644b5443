"""The end of a job: counted once, whoever comes to it, and never without its dead letter."""

from __future__ import annotations

import logging

from serve_app.jobs import transitions
from serve_app.jobs.dead_letters import DeadLetters, describe_failure
from serve_app.jobs.job_metrics import JobMetrics
from serve_app.jobs.model import Job, Status
from serve_app.jobs.session_view import Document
from serve_app.jobs.store import JobStore, Write

log = logging.getLogger(__name__)


class Closer:
    def __init__(self, store: JobStore, dead_letters: DeadLetters, metrics: JobMetrics) -> None:
        self._store = store
        self._dead_letters = dead_letters
        self._metrics = metrics

    async def close(self, job: Job, *, ran_here: bool = False) -> None:
        """Write a failed job's dead letter, then note that, then count. A crash on the way leaves the job to the next
        sweep, which writes the same letter again; of several callers one counts. `ran_here` says that this process ran
        the job until just now. Raises StoreUnavailable."""
        if job.status is Status.FAILED:
            await self._dead_letters.put(describe_failure(job))
        wrote = False

        def decide(found: Job | None, _document: Document | None) -> Write | None:
            nonlocal wrote
            same = found is not None and (found.status, found.finished_at) == (job.status, job.finished_at)
            wrote = found is not None and same and not found.closed
            return Write(transitions.close(found)) if found is not None and wrote else None

        await self._store.change(job.id, job.session, decide)
        if wrote:
            self._metrics.count(job, ran_here=ran_here)
            _log_end(job)


def _log_end(job: Job) -> None:
    log.info(
        "job ended",
        extra={
            "job": job.id,
            "outcome": str(job.status),
            "reason": job.error_code,
            "attempts": job.attempts,
            "seconds": max(0.0, (job.finished_at or 0.0) - job.published_at),
        },
    )
