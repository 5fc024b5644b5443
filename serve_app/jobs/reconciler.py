"""Ends what a crash or a full house left: overdue jobs, ends not closed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from serve_app.clock import Clock
from serve_app.errors import StoreUnavailable
from serve_app.jobs import session_view, transitions
from serve_app.jobs.closing import Closer
from serve_app.jobs.model import Job, Status
from serve_app.jobs.session_view import Document
from serve_app.jobs.store import JobStore, Write
from serve_app.settings_sections import JobSettings

log = logging.getLogger(__name__)

INTERVAL_S = 5.0
"""How often leftovers are looked for."""
BATCH = 100
"""Leftovers ended per round."""
KEPT_SHARE = 0.9
"""Of its time, that a waiting job has left at least when a pause ends; each is written again every tenth of it."""


class Reconciler:
    def __init__(
        self,
        store: JobStore,
        closer: Closer,
        settings: JobSettings,
        clock: Clock,
        is_paused: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._closer = closer
        self._settings = settings
        self._clock = clock
        self._is_paused = is_paused

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
        horizon = now + self._settings.deadline_s * KEPT_SHARE if self._is_paused() else now
        for job in await self._store.find(status=Status.QUEUED, limit=BATCH, before_deadline=horizon):
            if not job.owner or job.deadline_at <= now:
                await self._expire(job, now, horizon)
        for status in (Status.FAILED, Status.COMPLETED, Status.CANCELLED):
            for job in await self._store.find(status=status, limit=BATCH, closed=False):
                await self._close(job)

    async def _close(self, job: Job) -> None:
        """One letter that cannot be written must not hold up the ends of others."""
        try:
            await self._closer.close(job)
        except StoreUnavailable as error:
            log.warning("end not closed yet: %s", error, extra={"job": job.id})

    async def _expire(self, overdue: Job, now: float, horizon: float) -> None:
        def decide(job: Job | None, document: Document | None) -> Write | None:
            if job is None or job.status is not Status.QUEUED or job.deadline_at > horizon:
                return None  # claimed, or given more time, since it was found
            if self._is_paused() and not job.owner:
                # Whoever published it has been told to send it again until it is done; the pause is not its fault.
                return Write(job.evolve(deadline_at=now + self._settings.deadline_s))
            if job.deadline_at > now:
                return None
            expired = transitions.expire(job, now)
            return Write(expired, session_view.describe(expired) if session_view.is_shown(job.id, document) else None)

        job = await self._store.change(overdue.id, overdue.session, decide)
        if job is not None and job.status.is_final:
            await self._close(job)
