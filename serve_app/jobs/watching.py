"""Telling watchers that somebody, in whichever process, changed their job: one look per interval for all of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from serve_app.errors import StoreUnavailable
from serve_app.jobs.model import Job

log = logging.getLogger(__name__)

RECHECK_S = 10.0
"""How often every watcher looks for itself, whatever was or was not heard of its job."""


class Changes(Protocol):
    async def read(self) -> set[str] | None:
        """The ids of the jobs changed since the last call; None for all, when nothing was read before."""


class Watchers:
    """Of one process and event loop. `open_changes` begins anew after an outage."""

    def __init__(self, open_changes: Callable[[], Changes], interval_s: float) -> None:
        self._open_changes = open_changes
        self._interval_s = interval_s
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._poller: asyncio.Task[None] | None = None

    async def follow(self, job_id: str, get: Callable[[str], Awaitable[Job | None]]) -> AsyncIterator[Job]:
        """The job now and after each change, as `get` reads it; ends after a final status, or when there is none."""
        seen = -1
        with self._subscribe(job_id) as changed:
            while (job := await get(job_id)) is not None:
                if job.version != seen:
                    seen = job.version
                    yield job
                if job.status.is_final:
                    return
                await changed.wait()
                changed.clear()

    async def close(self) -> None:
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)

    @contextmanager
    def _subscribe(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set after each change of the job, and now and then without one."""
        changed = asyncio.Event()
        self._watchers.setdefault(job_id, set()).add(changed)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(), name="changes")
        try:
            yield changed
        finally:
            self._watchers[job_id].discard(changed)
            if not self._watchers[job_id]:
                del self._watchers[job_id]

    async def _poll(self) -> None:
        clock = asyncio.get_running_loop().time
        changes, rechecked = self._open_changes(), clock()
        while self._watchers:
            try:
                touched = await changes.read()
            except StoreUnavailable:
                touched, changes = None, self._open_changes()  # let their own reads tell them
            except Exception:
                log.exception("defect in watching for changes")
                touched = None
            if clock() - rechecked >= RECHECK_S:
                touched = None
            if touched is None:
                rechecked = clock()
            for job_id in list(self._watchers) if touched is None else touched:
                for changed in self._watchers.get(job_id, ()):
                    changed.set()
            await asyncio.sleep(self._interval_s)
