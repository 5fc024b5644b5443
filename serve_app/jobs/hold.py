"""One worker's hold on one running job: renewing the lease, showing progress, and hearing that it should stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import Enum

from serve_app.clock import Clock
from serve_app.errors import LeaseLost, StoreUnavailable
from serve_app.jobs import session_view, transitions
from serve_app.jobs.model import Job, Progress, Stage
from serve_app.jobs.session_view import Document
from serve_app.jobs.store import JobStore, Write
from serve_app.settings_sections import JobSettings

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 1.0
"""How often a running job is looked at: a cancellation is seen within this time."""
RENEWAL_SHARE = 1 / 3
"""Of a lease's time, after which it is renewed."""
BEAT_SHARE = 1 / 6
"""Of a lease's time that one attempt to renew it may take: two may fail before the lease runs out."""
BEFORE_ENGINE = (Stage.DOWNLOAD, Stage.DECODE)
OUTAGE_PAUSE_S = 1.0
"""Pause before a write that must get through is tried again on a store that did not answer."""


class Interruption(Enum):
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    LOST = "lost"
    UNWANTED = "unwanted"
    """Here and now: nothing is to be begun, and no engine has begun it."""


class Hold:
    def __init__(
        self,
        store: JobStore,
        clock: Clock,
        settings: JobSettings,
        job: Job,
        token: str,
        begins_nothing: Callable[[], bool] = lambda: False,
    ) -> None:
        self.job = job
        self.token = token
        self.is_over = False
        """Whether the run has ended, so that only its end is still to be written."""
        self._store = store
        self._clock = clock
        self._settings = settings
        self._begins_nothing = begins_nothing
        self._progress = job.progress
        self._progress_due = 0.0
        self._renewal_due = clock.monotonic() + settings.lease_s * RENEWAL_SHARE
        self._committed = False

    @property
    def is_committed(self) -> bool:
        """Whether the run has begun to write its result; from then on it is finished, not interrupted."""
        return self._committed

    @property
    def has_begun(self) -> bool:
        """Whether an engine has begun with the job, so that giving it back would cost what is done of it."""
        progress = self._progress
        if progress is None or progress.stage in BEFORE_ENGINE:
            return False
        return progress.stage is not Stage.ENGINE or progress.steps > 0 or progress.decoding

    def report(self, progress: Progress) -> None:
        """Remember the newest progress; it is written with a beat, at most once per `progress_interval_s`."""
        self._progress = progress

    async def keep(self) -> Interruption:
        """Renew until there is a reason to stop. An outage of the store is no reason: the lease may still be ours. A
        pause and a drain are one before an engine has begun: in the queue a job loses no time to a pause, and asks for
        no replica; and where the whole service is stopped, its engine never begins."""
        interval = min(max(self._settings.progress_interval_s, 0.05), CHECK_INTERVAL_S, self._settings.lease_s / 4)
        while True:
            await asyncio.sleep(interval)
            try:
                async with asyncio.timeout(self._settings.lease_s * BEAT_SHARE):
                    reason = await self._beat()
                if reason is None and self._begins_nothing() and not self.has_begun:
                    return Interruption.UNWANTED
                if reason is Interruption.LOST or (reason is not None and not self._committed):
                    return reason
            except (StoreUnavailable, TimeoutError) as error:
                log.warning("lease not renewed: %s", error or "no answer", extra={"job": self.job.id})

    async def confirm(self) -> Interruption | None:
        """Ask once more, right before an effect, whether this worker should still have it; outages are waited out."""
        while True:
            try:
                reason = await self._beat()
            except StoreUnavailable:
                await asyncio.sleep(OUTAGE_PAUSE_S)
            else:
                self._committed = reason is None
                return reason

    async def _beat(self) -> Interruption | None:
        superseded = renewed = False
        moment = self._clock.monotonic()
        due = moment >= self._renewal_due
        progress = self._progress if moment >= self._progress_due else self.job.progress

        def decide(job: Job | None, document: Document | None) -> Write | None:
            nonlocal superseded, renewed
            if job is None:
                raise LeaseLost(f"Job {self.job.id} is gone.")
            superseded = document is not None and not session_view.is_shown(job.id, document)
            beaten = transitions.beat(job, self.token, self._clock.now(), progress, self._settings, due=due)
            renewed = beaten is not job
            if not renewed:
                return None
            return Write(beaten, None if superseded else session_view.describe(beaten))

        try:
            job = await self._store.change(self.job.id, self.job.session, decide)
        except LeaseLost:
            return Interruption.LOST
        assert job is not None
        if job.progress != self.job.progress:
            self._progress_due = moment + self._settings.progress_interval_s
        if renewed:
            self._renewal_due = moment + self._settings.lease_s * RENEWAL_SHARE
        self.job = job
        if job.cancel_requested:
            return Interruption.CANCELLED
        return Interruption.SUPERSEDED if superseded else None

    async def end(self, change: transitions.End) -> Job | None:
        """Write how the run ended, through outages; None when another worker holds the job and nothing was written."""

        def decide(job: Job | None, document: Document | None) -> Write | None:
            if job is None:
                raise LeaseLost(f"Job {self.job.id} is gone.")
            shown = document is None or session_view.is_shown(job.id, document)
            ended = change(job, self.token, self._clock.now(), not shown)
            return Write(ended, session_view.describe(ended) if shown else None)

        while True:
            try:
                return await self._store.change(self.job.id, self.job.session, decide)
            except LeaseLost:
                return None
            except StoreUnavailable as error:
                log.warning("end of run not written yet: %s", error, extra={"job": self.job.id})
                await asyncio.sleep(OUTAGE_PAUSE_S)
