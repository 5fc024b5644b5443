"""The end of a job: counted once, whoever comes to it, and never without its dead letter."""

from __future__ import annotations

import logging

from serve_app import metrics
from serve_app.jobs import transitions
from serve_app.jobs.dead_letters import DeadLetters, describe_failure
from serve_app.jobs.model import Job, Status
from serve_app.jobs.session_view import Document
from serve_app.jobs.store import JobStore, Write
from serve_app.metrics import Sink

log = logging.getLogger(__name__)


class Closer:
    def __init__(self, store: JobStore, dead_letters: DeadLetters, sink: Sink) -> None:
        self._store = store
        self._dead_letters = dead_letters
        self._sink = sink

    async def close(self, job: Job) -> None:
        """Write a failed job's dead letter, then note that, then count. A crash on the way leaves the job to the next
        sweep, which writes the same letter again; of several callers one counts. Raises StoreUnavailable."""
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
            self._count(job)

    def _count(self, job: Job) -> None:
        quality, outcome = job.parameters.quality, str(job.status)
        elapsed = max(0.0, (job.finished_at or 0.0) - job.published_at)
        self._sink.record(metrics.JOBS, outcome=outcome, quality=quality)
        self._sink.record(metrics.END_TO_END_SECONDS, elapsed, outcome=outcome, quality=quality)
        for stage, seconds in job.stage_seconds.items():
            self._sink.record(metrics.STAGE_SECONDS, seconds, stage=stage, quality=quality)
        if job.status is Status.FAILED:
            self._sink.record(metrics.DEAD_LETTERS, reason=job.error_code or "unknown")
        log.info(
            "job ended",
            extra={
                "job": job.id,
                "outcome": outcome,
                "reason": job.error_code,
                "attempts": job.attempts,
                "seconds": elapsed,
            },
        )
