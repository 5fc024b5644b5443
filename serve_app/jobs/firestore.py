"""The production job store: one Firestore document per job, and the app's session documents beside them.

`{jobs_collection}/{job id}` is ours. `users/{user}/sessions/{session}` belongs to the app's backend: our fields are
merged into it where it exists, everything else in it is left alone, and it is never created.
`{headshots_collection}/{job id}` shows a headshot; it is written whole, with its job. How long a call may take
and what is tried again is said in `firestore_documents`; which indexes and which TTL policy there should be, in
`firestore_jobs`.

**Claims have no hot document.** A claim queries the first claimable jobs, then tries them one by one, each in a
transaction on that job alone, so workers that take different jobs never meet. A loser pays one read and moves on to a
random job of the same priority; claims that do not race are exactly by (priority, age).

**What caps throughput.** Every write of a job moves it in the index on `changed_at`, whose values only grow, and into
such a collection Firestore takes about 500 writes per second (`firebase.google.com/docs/firestore/best-practices`). A
job is written about once a second while it runs, and three times besides: some 450 jobs running at a time, or 160
started and ended per second. To raise it, write a shard number derived from the job id into the documents, put it
before `created_at` and `changed_at` in the indexes (and exempt the bare fields), and query all shards.
`bench/claims.py` measures claims on the emulator.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from google.cloud.firestore import AsyncClient, AsyncDocumentReference, AsyncQuery, AsyncWriteBatch, Query
from google.cloud.firestore_v1.base_query import FieldFilter

from serve_app.errors import StoreUnavailable
from serve_app.jobs import headshot_view
from serve_app.jobs.catalog import ENGINES
from serve_app.jobs.firestore_changes import WATCH_INTERVAL_S, FirestoreChanges
from serve_app.jobs.firestore_documents import Documents, Snapshot, delete, write
from serve_app.jobs.firestore_jobs import read_job, read_jobs, write_job
from serve_app.jobs.model import Job, Lane, Operation, Priority, Session, Status
from serve_app.jobs.session_view import Document
from serve_app.jobs.store import Backlog, Decide, LaneBacklog, Write
from serve_app.jobs.watching import Watchers
from serve_app.settings_sections import GoogleSettings

PAGE = 20
"""Jobs looked at per query when claiming."""
CLAIM_ROUNDS = 10
"""Pages that may be lost to other workers, job by job, before a claim gives up."""

_UNDER_WAY = (Status.QUEUED, Status.PROCESSING)

_FORBIDDEN_ID = re.compile(r"\.|\.\.|__.*__|.*/.*|", re.DOTALL)
"""Ids no document can have (`firebase.google.com/docs/firestore/quotas`)."""


class FirestoreJobStore:
    """The client is the caller's to close; like it, the store belongs to one event loop."""

    def __init__(self, client: AsyncClient, settings: GoogleSettings) -> None:
        self._client = client
        self._jobs = client.collection(settings.jobs_collection)
        self._headshots = client.collection(settings.headshots_collection)
        self._documents = Documents(client, settings.timeout_s)
        self._watchers = Watchers(lambda: FirestoreChanges(self._documents, self._jobs), WATCH_INTERVAL_S)

    async def change(self, job_id: str, session: Session | None, decide: Decide) -> Job | None:
        tried: Job | None = None

        def work(snapshots: Sequence[Snapshot], batch: AsyncWriteBatch) -> Job | None:
            nonlocal tried
            found = read_job(snapshots[0])
            if found is not None and found == tried:
                return found  # our own commit, whose answer was lost
            document = snapshots[1].to_dict() if len(snapshots) > 1 else None
            decision = decide(found, document)
            if decision is None:
                return found
            if decision.fields and document is not None:
                write(batch, snapshots[1], decision.fields)
            tried = write_job(batch, snapshots[0], decision)
            self._show(batch, found, tried)
            return tried

        references = [self._jobs.document(job_id)]
        if session is not None and _is_possible(session):
            references.append(self._session(session))
        return await self._documents.change(references, work)

    def _show(self, batch: AsyncWriteBatch, before: Job | None, job: Job) -> None:
        """The document of a headshot, which nobody else writes, where it has changed: a running job is written every
        second."""
        if job.operation is not Operation.HEADSHOT:
            return
        fields = headshot_view.describe(job)
        if before is None or fields != headshot_view.describe(before):
            batch.set(self._headshots.document(job.id), fields, merge=True)  # the app may keep fields of its own there

    async def claim(
        self, now: float, decide: Decide, *, urgent_only: bool = False, lane: Lane = Lane.IMAGES
    ) -> Job | None:
        def take(job: Job | None, document: Document | None) -> Write | None:
            if job is None or not _is_claimable(job, now):
                raise _Taken
            return decide(job, document)

        for _ in range(CLAIM_ROUNDS):
            candidates = await self._find_claimable(now, urgent_only, lane)
            if not candidates:
                return None
            choice = candidates[0]
            while candidates:
                try:
                    return await self.change(choice.id, choice.session, take)
                except _Taken:
                    candidates.remove(choice)
                    equals = [job for job in candidates if job.priority == candidates[0].priority]
                    choice = random.choice(equals) if equals else choice
        raise StoreUnavailable(f"{CLAIM_ROUNDS} pages of jobs were all claimed by others first.")

    async def _find_claimable(self, now: float, urgent_only: bool, lane: Lane) -> list[Job]:
        operations = [str(operation) for operation in Operation if operation.lane is lane]
        jobs = _where(self._jobs, "operation", "in", operations)
        queued = _where(jobs, "status", "==", str(Status.QUEUED))
        if urgent_only:
            queued = _where(queued, "priority", "==", int(Priority.URGENT))
        lapsed = _where(jobs, "status", "==", str(Status.PROCESSING))
        lapsed = _where(lapsed, "lease_expires_at", "<=", now).order_by("lease_expires_at")

        def may_run(job: Job) -> bool:
            return _is_claimable(job, now) and (job.priority is Priority.URGENT or not urgent_only)

        found = await asyncio.gather(
            self._first_page(queued.order_by("priority").order_by("created_at"), may_run),
            self._first_page(lapsed, may_run),
        )
        return sorted((job for page in found for job in page), key=lambda job: (job.priority, job.created_at))

    async def _first_page(self, query: AsyncQuery, wanted: Callable[[Job], bool]) -> list[Job]:
        """The wanted ones of the first page that has any; jobs that only pause must not hide the one behind them."""
        page = query.limit(PAGE)
        while snapshots := await self._documents.query(page):
            if found := [job for job in read_jobs(snapshots) if wanted(job)]:
                return found
            page = query.start_after(snapshots[-1]).limit(PAGE)
        return []

    async def get(self, job_id: str) -> Job | None:
        if _FORBIDDEN_ID.fullmatch(job_id):
            return None
        return read_job((await self._documents.get(self._jobs.document(job_id)))[0])

    async def find(
        self,
        *,
        status: Status,
        limit: int,
        before_deadline: float | None = None,
        closed: bool | None = None,
    ) -> Sequence[Job]:
        """With `before_deadline`, of more than `limit` jobs those with the earliest deadlines. Both filters at once
        would need one more index (`status`, `closed`, `deadline_at`)."""
        query = _where(self._jobs, "status", "==", str(status))
        if closed is not None:
            query = _where(query, "closed", "==", closed)
        if before_deadline is not None:
            query = _where(query, "deadline_at", "<", before_deadline).order_by("deadline_at")
        else:
            query = query.order_by("created_at")
        found = read_jobs(await self._documents.query(query.limit(limit)))
        return sorted(found, key=lambda job: job.created_at)

    def watch(self, job_id: str) -> AsyncGenerator[Job]:
        return self._watchers.follow(job_id, self.get)

    async def list_owned(self, owner: str, *, limit: int, before: tuple[float, str] | None = None) -> Sequence[Job]:
        newest = _where(self._jobs, "owner", "==", owner).order_by("created_at", direction=Query.DESCENDING)
        newest = newest.order_by("__name__", direction=Query.DESCENDING)
        if before is not None:
            created_at, job_id = before
            if _FORBIDDEN_ID.fullmatch(job_id):
                return []  # after no job of ours
            newest = newest.start_after({"created_at": created_at, "__name__": self._jobs.document(job_id)})
        return await self._read_page(newest, limit)

    async def list_of_user(self, user_id: str, *, limit: int, after: str = "") -> Sequence[Job]:
        """The index of the single field, which Firestore keeps by itself, is in the order of ids."""
        jobs = _where(self._jobs, "session.user_id", "==", user_id).order_by("__name__")
        return await self._read_page(
            jobs.start_after({"__name__": self._jobs.document(after)}) if after else jobs, limit
        )

    async def find_expired(self, now: float, *, limit: int) -> Sequence[Job]:
        ended = _where(self._jobs, "closed", "==", True)
        expired = _where(ended, "expires_at", "<=", now).order_by("expires_at")
        return [job for job in await self._read_page(expired, limit) if job.status.is_final]

    async def _read_page(self, query: AsyncQuery, limit: int) -> list[Job]:
        """The first `limit` jobs that this version can read, so that others neither end a list nor stop a sweep."""
        jobs: list[Job] = []
        page = query.limit(limit)
        while len(jobs) < limit:
            snapshots = await self._documents.query(page)
            jobs += read_jobs(snapshots)
            if len(snapshots) < limit:
                break
            page = query.start_after(snapshots[-1]).limit(limit)
        return jobs[:limit]

    async def remove(self, job: Job) -> None:
        """Watchers of it notice within `watching.RECHECK_S`."""

        def work(snapshots: Sequence[Snapshot], batch: AsyncWriteBatch) -> None:
            found = read_job(snapshots[0])
            if found is not None and found.version == job.version:
                delete(batch, snapshots[0])
                if found.operation is Operation.HEADSHOT:
                    batch.delete(self._headshots.document(found.id))

        await self._documents.change([self._jobs.document(job.id)], work)

    async def backlog(self, now: float) -> Backlog:
        """The figures are read together, but not of the same instant. While nothing waits or runs two reads are all.
        Jobs that name no engine, as records of earlier versions, are counted as those that are left over."""
        counts = await asyncio.gather(*(self._count(status) for status in _UNDER_WAY))
        if not any(counts):
            return Backlog()
        (queued, running), lanes = await asyncio.gather(
            asyncio.gather(*map(self._count_engines, _UNDER_WAY, counts)),
            asyncio.gather(*(self._read_lane(lane, now) for lane in Lane)),
        )
        return Backlog(queued, running, dict(zip(Lane, lanes, strict=True)))

    async def _count(self, status: Status, **fields: object) -> int:
        query = _where(self._jobs, "status", "==", str(status))
        for name, value in fields.items():
            query = _where(query, name, "==", value)
        return await self._documents.count(query)

    async def _count_engines(self, status: Status, total: int) -> dict[str, int]:
        if not total:
            return {}
        counts = await asyncio.gather(*(self._count(status, engine=engine) for engine in ENGINES))
        found = {engine: count for engine, count in zip(ENGINES, counts, strict=True) if count}
        unnamed = total - sum(found.values())
        return {**found, "": unnamed} if unnamed > 0 else found

    async def _read_lane(self, lane: Lane, now: float) -> LaneBacklog:
        operations = [str(operation) for operation in Operation if operation.lane is lane]
        jobs = _where(self._jobs, "operation", "in", operations)
        queued, running = (_where(jobs, "status", "==", str(status)) for status in _UNDER_WAY)
        waiting, active, oldest, longest = await asyncio.gather(
            self._documents.count(queued),
            self._documents.count(running),
            self._documents.query(queued.order_by("created_at").limit(1)),
            self._documents.query(running.order_by("claimed_at").limit(1)),
        )
        return LaneBacklog(
            queued=waiting,
            running=active,
            oldest_queued_s=max((max(0.0, now - job.created_at) for job in read_jobs(oldest)), default=0.0),
            oldest_running_s=max((max(0.0, now - (job.claimed_at or now)) for job in read_jobs(longest)), default=0.0),
        )

    async def get_session(self, session: Session) -> dict[str, Any] | None:
        if not _is_possible(session):
            return None
        return (await self._documents.get(self._session(session)))[0].to_dict()

    async def merge_session(self, session: Session, decide: Callable[[Document], Mapping[str, Any]]) -> bool:
        def work(snapshots: Sequence[Snapshot], batch: AsyncWriteBatch) -> bool:
            document = snapshots[0].to_dict()
            if document is not None and (fields := decide(document)):
                write(batch, snapshots[0], fields)
            return document is not None

        return _is_possible(session) and await self._documents.change([self._session(session)], work)

    async def put_session(self, session: Session, document: Document) -> None:
        """Create or replace a session document, as the app's backend does; the service itself never calls this."""
        await self._documents.put(self._session(session), document)

    async def get_headshot(self, job_id: str) -> dict[str, Any] | None:
        """The document that shows a headshot, as the app's backend reads it; the service itself never calls this."""
        return (await self._documents.get(self._headshots.document(job_id)))[0].to_dict()

    async def close(self) -> None:
        await self._watchers.close()

    def _session(self, session: Session) -> AsyncDocumentReference:
        return self._client.document(session.path)


class _Taken(Exception):
    """Another worker was faster."""


def _is_possible(session: Session) -> bool:
    """Whether there can be such a document; some ids that callers may send are reserved in Firestore."""
    return not any(_FORBIDDEN_ID.fullmatch(part) for part in (session.user_id, session.session_id))


def _is_claimable(job: Job, now: float) -> bool:
    if job.status is Status.PROCESSING:
        return job.lease is not None and job.lease.expires_at <= now
    return job.status is Status.QUEUED and job.not_before <= now


def _where(query: Any, field: str, operator: str, value: object) -> Any:
    return query.where(filter=FieldFilter(field, operator, value))
