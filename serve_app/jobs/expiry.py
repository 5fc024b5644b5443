"""Forgets jobs whose time is over: first the images that came and went with them, then the record.

In this order nothing is left that no record leads to. Whoever forgets a job first takes a lease on its record: several
Editors sweep, and once the record is gone the same idempotency key may bring a job of the same id with new images,
which one that comes late must not take for the old ones. A sweep that is cut off leaves the job to another when the
lease has run out, and deleting what is gone already does no harm. A session's images are the app's and stay; so do the
dead letters.
"""

from __future__ import annotations

import asyncio
import logging
import uuid

from serve_app.clock import Clock
from serve_app.errors import StoreUnavailable
from serve_app.jobs.model import Job, Lease, Operation
from serve_app.jobs.session_view import Document
from serve_app.jobs.store import JobStore, Write
from serve_app.photos.store import PhotoStore

log = logging.getLogger(__name__)

INTERVAL_S = 60.0
"""How often expired jobs are looked for; their time is counted in days."""
BATCH = 20
"""Jobs forgotten one after the other before the store is asked again, so that those who work are not crowded out."""
HOLD_S = 600.0
"""How long one Editor has a job it is forgetting; with its stores out, so long until it is tried again."""
WORK_S = HOLD_S / 2
"""How long deleting a job's images may take; well within the hold, for a call may outlast the one who waits for it."""


class Expiry:
    def __init__(self, store: JobStore, photos: PhotoStore, clock: Clock) -> None:
        self._store = store
        self._photos = photos
        self._clock = clock

    async def run(self) -> None:
        while True:
            try:
                while await self.sweep() == BATCH:
                    pass
            except StoreUnavailable as error:
                log.warning("expired jobs not looked for: %s", error)
            except Exception:
                log.exception("defect in forgetting expired jobs")
            await asyncio.sleep(INTERVAL_S)

    async def sweep(self) -> int:
        """Forget up to `BATCH` expired jobs; how many it were. What a store keeps from being done is done later.
        Raises StoreUnavailable when the expired jobs cannot be looked for."""
        forgotten = 0
        for job in await self._store.find_expired(self._clock.now(), limit=BATCH):
            try:
                forgotten += await self._forget(job.id)
            except StoreUnavailable as error:
                log.warning("expired job not forgotten yet: %s", error, extra={"job": job.id})
        return forgotten

    async def _forget(self, job_id: str) -> bool:
        """False when another Editor has the job, or it has not expired after all."""
        job = await self._hold(job_id)
        if job is None:
            return False
        try:
            async with asyncio.timeout(WORK_S):
                for path in list_images(job):
                    await self._photos.delete(path)
        except TimeoutError:
            raise StoreUnavailable(f"Its images could not be deleted within {WORK_S:.0f} s.") from None
        await self._store.remove(job)
        log.info("job forgotten", extra={"job": job.id})
        return True

    async def _hold(self, job_id: str) -> Job | None:
        """The job, with a lease of this sweep's on it."""
        token, now = uuid.uuid4().hex, self._clock.now()

        def decide(job: Job | None, _document: Document | None) -> Write | None:
            if job is None or not is_expired(job, now) or (job.lease is not None and job.lease.expires_at > now):
                return None
            return Write(job.evolve(lease=Lease(token, now + HOLD_S)))

        job = await self._store.change(job_id, None, decide)
        return job if job is not None and job.lease is not None and job.lease.token == token else None


def is_expired(job: Job, now: float) -> bool:
    """Whether the job may be forgotten: it has ended, that has been told, and its time is over."""
    return job.status.is_final and job.closed and job.expires_at is not None and job.expires_at <= now


def list_images(job: Job) -> list[str]:
    """The paths of what is only there for this job; the original that a message named is its sender's."""
    if job.session is not None:
        return []
    files = job.files
    original = files.original if job.operation is not Operation.HEADSHOT or job.owner else None
    return [path for path in (original, files.mask, files.result, files.preview) if path is not None]
