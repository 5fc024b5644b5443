"""Ends what a crash or a full house left: overdue jobs, failures without a dead letter. Shows the backlog."""

from __future__ import annotations

import asyncio
import logging

from serve_app import metrics
from serve_app.clock import Clock
from serve_app.errors import Conflict, StoreUnavailable
from serve_app.jobs import session_view, transitions
from serve_app.jobs.dead_letters import DeadLetters, describe_failure
from serve_app.jobs.model import Job, Status
from serve_app.jobs.session_view import Document
from serve_app.jobs.store import JobStore, Write
from serve_app.metrics import Sink

log = logging.getLogger(__name__)

INTERVAL_S = 5.0
"""How often leftovers are looked for and the backlog gauges are set."""
BATCH = 100
"""Leftovers ended per round."""


class Reconciler:
    def __init__(self, store: JobStore, dead_letters: DeadLetters, clock: Clock, sink: Sink) -> None:
        self._store = store
        self._dead_letters = dead_letters
        self._clock = clock
        self._sink = sink

    async def run(self) -> None:
        while True:
            try:
                await self.sweep()
            except StoreUnavailable as error:
                log.warning("no sweep: %s", error)
            except Exception:
                log.exception("defect in the sweep")
            await asyncio.sleep(INTERVAL_S)

    async def sweep(self) -> None:
        now = self._clock.now()
        for job in await self._store.find(status=Status.QUEUED, limit=BATCH, before_deadline=now):
            await self._expire(job, now)
        for job in await self._store.find(status=Status.FAILED, limit=BATCH, dead_lettered=False):
            await self._bury(job)
        backlog = await self._store.backlog(now)
        self._sink.record(metrics.JOBS_QUEUED, backlog.queued)
        self._sink.record(metrics.JOBS_RUNNING, backlog.running)
        self._sink.record(metrics.OLDEST_QUEUED_SECONDS, backlog.oldest_s)

    async def close(self, job: Job) -> None:
        """Count a job that has just ended, and write its dead letter if it failed."""
        quality = job.parameters.quality
        outcome = str(job.status)
        self._sink.record(metrics.JOBS, outcome=outcome, quality=quality)
        elapsed = max(0.0, (job.finished_at or 0.0) - job.published_at)
        self._sink.record(metrics.END_TO_END_SECONDS, elapsed, outcome=outcome, quality=quality)
        if job.status is Status.COMPLETED:
            for stage, seconds in job.stage_seconds.items():
                self._sink.record(metrics.STAGE_SECONDS, seconds, stage=stage, quality=quality)
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
        if job.status is Status.FAILED:
            try:
                await self._bury(job)
            except StoreUnavailable as error:
                log.warning("dead letter not written yet: %s", error, extra={"job": job.id})

    async def _expire(self, overdue: Job, now: float) -> None:
        def decide(job: Job | None, document: Document | None) -> Write | None:
            if job is None or job.status is not Status.QUEUED:
                return None
            expired = transitions.expire(job, now)
            return Write(expired, session_view.describe(expired) if session_view.is_shown(job.id, document) else None)

        try:
            job = await self._store.change(overdue.id, overdue.session, decide)
        except Conflict:
            return
        if job is not None and job.status is Status.FAILED:
            await self.close(job)

    async def _bury(self, failed: Job) -> None:
        """Write the letter, then note that it is written: a crash between the two writes the same letter again."""

        def decide(job: Job | None, _document: Document | None) -> Write | None:
            same = job is not None and job.status is Status.FAILED and job.finished_at == failed.finished_at
            return Write(transitions.bury(job)) if job is not None and same and not job.dead_lettered else None

        await self._dead_letters.put(describe_failure(failed))
        await self._store.change(failed.id, failed.session, decide)
        self._sink.record(metrics.DEAD_LETTERS, reason=failed.error_code or "unknown")
