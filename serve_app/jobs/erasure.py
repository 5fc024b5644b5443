"""Forgets jobs before their time, because a person asked for it: the results in a session's folder at once, the record
and the images that came with it by the next sweep (`expiry`), within a minute wherever an Editor runs.

What belongs to the app's backend stays: original, mask, the session's document.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from serve_app.clock import Clock
from serve_app.errors import Conflict
from serve_app.jobs.model import Job
from serve_app.jobs.session_view import Document
from serve_app.jobs.store import JobStore, Write
from serve_app.photos.store import PhotoStore

PAGE = 100
POLL_S = 0.5

Cancel = Callable[[str], Awaitable[Job]]
"""`JobService.cancel`."""


@dataclass(frozen=True, slots=True)
class Erased:
    """`left` are ids of jobs that still ran when the wait was over: they are cancelled, and have to be erased again."""

    jobs: int
    results: int
    left: tuple[str, ...]


class Erasure:
    """`wait_s` is how long a job that runs may take to notice that it has been cancelled."""

    def __init__(self, store: JobStore, photos: PhotoStore, cancel: Cancel, clock: Clock, *, wait_s: float) -> None:
        self._store = store
        self._photos = photos
        self._cancel = cancel
        self._clock = clock
        self._wait_s = wait_s

    async def list_of_user(self, user_id: str) -> AsyncIterator[Job]:
        """The jobs of a user's sessions. Raises StoreUnavailable."""
        after = ""
        while page := await self._store.list_of_user(user_id, limit=PAGE, after=after):
            for job in page:
                yield job
            after = page[-1].id

    async def list_of_owner(self, owner: str) -> AsyncIterator[Job]:
        """The jobs that a caller asked for over HTTP. Raises StoreUnavailable."""
        before: tuple[float, str] | None = None
        while page := await self._store.list_owned(owner, limit=PAGE, before=before):
            for job in page:
                yield job
            before = (page[-1].created_at, page[-1].id)

    async def erase(self, jobs: Sequence[Job]) -> Erased:
        """Doing it again does no harm. Raises StoreUnavailable; then what was not reached is as it was."""
        erased, results, left = 0, 0, []
        for job in jobs:
            if not await self._end(job):
                left.append(job.id)
                continue
            if job.session is not None:
                for path in (job.session.edited_path, job.session.preview_path):
                    await self._photos.delete(path)
                results += 1
            await self._store.change(job.id, job.session, self._expire)
            erased += 1
        return Erased(erased, results, tuple(left))

    async def _end(self, job: Job) -> bool:
        """Whether the job has ended, so that it writes nothing any more."""
        if job.status.is_final:
            return True
        try:
            found: Job | None = await self._cancel(job.id)
        except Conflict:  # it has just ended
            return True
        give_up_at = self._clock.now() + self._wait_s
        while found is not None and not found.status.is_final:
            if self._clock.now() >= give_up_at:
                return False
            await asyncio.sleep(POLL_S)
            found = await self._store.get(job.id)
        return True

    def _expire(self, job: Job | None, _document: Document | None) -> Write | None:
        now = self._clock.now()
        if job is None or (job.expires_at is not None and job.expires_at <= now):
            return None
        return Write(job.evolve(expires_at=now))
