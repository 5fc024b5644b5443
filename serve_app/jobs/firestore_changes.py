"""Tells watchers that somebody changed their job, by one query per interval and process for all of them.

The async client has no listeners, and the sync one's cost a thread each. So every job document carries `changed_at`, a
server timestamp, and a poll asks for what changed since the previous poll's read time. A timestamp is taken when a
write arrives, not when it becomes visible, so each poll looks `OVERLAP_S` further back; what took longer than that is
found because every watcher looks for itself every `RECHECK_S`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from google.cloud.firestore import AsyncCollectionReference, Query
from google.cloud.firestore_v1.base_query import FieldFilter

from serve_app.errors import StoreUnavailable
from serve_app.jobs.firestore_documents import Documents

log = logging.getLogger(__name__)

WATCH_INTERVAL_S = 0.5
OVERLAP_S = 2.0
RECHECK_S = 10.0


class Changes:
    def __init__(self, documents: Documents, jobs: AsyncCollectionReference) -> None:
        self._documents = documents
        self._jobs = jobs
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._poller: asyncio.Task[None] | None = None

    @contextmanager
    def subscribe(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set after each change of the job, and now and then without one."""
        changed = asyncio.Event()
        self._watchers.setdefault(job_id, set()).add(changed)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(), name="firestore-changes")
        try:
            yield changed
        finally:
            self._watchers[job_id].discard(changed)
            if not self._watchers[job_id]:
                del self._watchers[job_id]

    async def _poll(self) -> None:
        clock = asyncio.get_running_loop().time
        recent = _Recent(self._documents, self._jobs)
        rechecked = clock()
        while self._watchers:
            try:
                touched = await recent.read()
            except StoreUnavailable:
                touched, recent = None, _Recent(self._documents, self._jobs)  # let their own reads tell them
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
            await asyncio.sleep(WATCH_INTERVAL_S)

    async def close(self) -> None:
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)


class _Recent:
    """What changed lately; `_seen` keeps the overlap from telling the same change twice."""

    def __init__(self, documents: Documents, jobs: AsyncCollectionReference) -> None:
        self._documents = documents
        self._changes: Any = jobs.select(["changed_at"])
        self._read_at: datetime | None = None
        self._seen: dict[str, datetime] = {}

    async def read(self) -> set[str] | None:
        """The ids of the jobs changed since the last call; None for all, when nothing was read before."""
        if self._read_at is None:
            newest = self._changes.order_by("changed_at", direction=Query.DESCENDING).limit(1)
            for snapshot in await self._documents.query(newest):
                self._read_at = snapshot.read_time
            return None
        since = self._read_at - timedelta(seconds=OVERLAP_S)
        later = self._changes.where(filter=FieldFilter("changed_at", ">=", since))
        found = await self._documents.query(later.order_by("changed_at"))
        changes = {snapshot.id: snapshot.get("changed_at") for snapshot in found}
        touched = {job_id for job_id, at in changes.items() if self._seen.get(job_id) != at}
        self._seen = changes
        if found:
            self._read_at = found[-1].read_time
        return touched
