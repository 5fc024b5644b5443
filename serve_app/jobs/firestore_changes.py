"""What changed lately in the jobs collection.

The async client has no listeners, and the sync one's cost a thread each. So every job document carries `changed_at`, a
server timestamp, and a look asks for what changed since the previous one's read time. A timestamp is taken when a write
arrives, not when it becomes visible, so each look goes `OVERLAP_S` further back; what took longer than that is found
because every watcher looks for itself now and then (`watching.RECHECK_S`).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from google.cloud.firestore import AsyncCollectionReference, Query
from google.cloud.firestore_v1.base_query import FieldFilter

from serve_app.jobs.firestore_documents import Documents

WATCH_INTERVAL_S = 0.5
"""How often a process with watchers looks; each look is one read and one per changed job."""
OVERLAP_S = 2.0


class FirestoreChanges:
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
