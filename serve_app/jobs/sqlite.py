"""The embedded job store: jobs and session documents in one SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from serve_app.jobs import headshot_view
from serve_app.jobs.model import SCHEMA, Job, Lane, Operation, Priority, Session, Status, from_document, to_document
from serve_app.jobs.session_view import Document
from serve_app.jobs.sqlite_changes import WATCH_INTERVAL_S, SqliteChanges
from serve_app.jobs.sqlite_database import SqliteDatabase, transaction
from serve_app.jobs.store import Backlog, Decide, LaneBacklog, Write
from serve_app.jobs.watching import Watchers

_CLAIMABLE = """
SELECT body FROM jobs
WHERE ((status = 'queued' AND not_before <= :now) OR (status = 'processing' AND lease_expires_at <= :now))
  AND priority <= :least AND schema <= :schema AND (json_extract(body, '$.operation') IS 'PetHeadshot') = :headshots
ORDER BY priority, created_at LIMIT 1
"""
_OWNED = """
SELECT body FROM jobs
WHERE json_extract(body, '$.owner') = :owner AND (created_at, id) < (:created_at, :id) AND schema <= :schema
ORDER BY created_at DESC, id DESC LIMIT :limit
"""
_OF_USER = """
SELECT body FROM jobs
WHERE json_extract(body, '$.session.user_id') = :user AND id > :after AND schema <= :schema ORDER BY id LIMIT :limit
"""
_EXPIRED = """
SELECT body FROM jobs
WHERE closed = 1 AND json_extract(body, '$.expires_at') <= :now
  AND status IN ('completed', 'failed', 'cancelled') AND schema <= :schema
ORDER BY json_extract(body, '$.expires_at') LIMIT :limit
"""
_BACKLOG = """
SELECT status, IFNULL(json_extract(body, '$.engine'), ''), json_extract(body, '$.operation') IS 'PetHeadshot',
       COUNT(*), MIN(created_at), MIN(json_extract(body, '$.claimed_at'))
FROM jobs WHERE status IN ('queued', 'processing') GROUP BY 1, 2, 3
"""
_FIRST_PAGE = (float("inf"), "")

REMOVALS_KEPT = 1000
"""Removals that watchers can still hear of; they look ten times a second. The last one must stay for its number."""


def _read_document(connection: sqlite3.Connection, path: str) -> dict[str, Any] | None:
    row = connection.execute("SELECT body FROM documents WHERE path = ?", (path,)).fetchone()
    return json.loads(row[0]) if row else None


def _write_document(connection: sqlite3.Connection, path: str, body: Mapping[str, Any]) -> None:
    connection.execute("INSERT OR REPLACE INTO documents VALUES (?, ?)", (path, json.dumps(body)))


def _read_job(connection: sqlite3.Connection, job_id: str) -> Job | None:
    row = connection.execute("SELECT body FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return from_document(json.loads(row[0])) if row else None


def _apply(connection: sqlite3.Connection, job: Job | None, session: Session | None, decide: Decide) -> Job | None:
    document = _read_document(connection, session.path) if session else None
    write = decide(job, document)
    if write is None:
        return job
    if write.fields and document is not None and session is not None:
        _write_document(connection, session.path, {**document, **write.fields})
    return _write_job(connection, write)


def _write_job(connection: sqlite3.Connection, write: Write) -> Job:
    job = write.job.evolve(version=write.job.version + 1)
    connection.execute(
        "INSERT OR REPLACE INTO jobs VALUES (?,?,?,?,?,?,?,?,?,(SELECT number + 1 FROM last_change),?)",
        (
            job.id,
            str(job.status),
            int(job.priority),
            job.created_at,
            job.not_before,
            job.lease.expires_at if job.lease else None,
            job.deadline_at,
            int(job.closed),
            job.schema,
            json.dumps(to_document(job)),
        ),
    )
    if job.operation is Operation.HEADSHOT:
        path = headshot_view.locate(job.id)
        _write_document(connection, path, {**(_read_document(connection, path) or {}), **headshot_view.describe(job)})
    return job


def _remove_job(connection: sqlite3.Connection, job_id: str) -> None:
    connection.execute("INSERT INTO removals SELECT number + 1, ? FROM last_change", (job_id,))
    connection.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
    connection.execute("DELETE FROM removals WHERE change <= (SELECT MAX(change) FROM removals) - ?", (REMOVALS_KEPT,))


def _read_lane(rows: Sequence[Any], lane: Lane, now: float) -> LaneBacklog:
    """Of the rows of `_BACKLOG`."""
    ours = [row for row in rows if bool(row[2]) is (lane is Lane.HEADSHOTS)]
    queued, running = ([row for row in ours if row[0] == status] for status in ("queued", "processing"))
    return LaneBacklog(
        queued=sum(row[3] for row in queued),
        running=sum(row[3] for row in running),
        oldest_queued_s=max((now - row[4] for row in queued), default=0.0),
        oldest_running_s=max((now - row[5] for row in running if row[5] is not None), default=0.0),
    )


class SqliteJobStore:
    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._watchers = Watchers(lambda: SqliteChanges(database), WATCH_INTERVAL_S)

    async def change(self, job_id: str, session: Session | None, decide: Decide) -> Job | None:
        def work(connection: sqlite3.Connection) -> Job | None:
            with transaction(connection):
                return _apply(connection, _read_job(connection, job_id), session, decide)

        return await self._database.run(work)

    async def claim(
        self, now: float, decide: Decide, *, urgent_only: bool = False, lane: Lane = Lane.IMAGES
    ) -> Job | None:
        least = Priority.URGENT if urgent_only else max(Priority)
        values = {"now": now, "least": int(least), "schema": SCHEMA, "headshots": int(lane is Lane.HEADSHOTS)}

        def work(connection: sqlite3.Connection) -> Job | None:
            # A look without the write lock first: idle Editors poll, and must not hold up those who write.
            if connection.execute(_CLAIMABLE, values).fetchone() is None:
                return None
            with transaction(connection):
                row = connection.execute(_CLAIMABLE, values).fetchone()
                if row is None:
                    return None
                job = from_document(json.loads(row[0]))
                return _apply(connection, job, job.session, decide)

        return await self._database.run(work)

    async def get(self, job_id: str) -> Job | None:
        return await self._database.run(lambda connection: _read_job(connection, job_id))

    async def find(
        self,
        *,
        status: Status,
        limit: int,
        before_deadline: float | None = None,
        closed: bool | None = None,
    ) -> Sequence[Job]:
        query = """
            SELECT body FROM jobs
            WHERE status = ? AND (? IS NULL OR deadline_at < ?) AND (? IS NULL OR closed = ?) AND schema <= ?
            ORDER BY created_at LIMIT ?"""
        values = (str(status), before_deadline, before_deadline, closed, closed, SCHEMA, limit)
        rows = await self._database.run(lambda connection: connection.execute(query, values).fetchall())
        return [from_document(json.loads(row[0])) for row in rows]

    def watch(self, job_id: str) -> AsyncGenerator[Job]:
        return self._watchers.follow(job_id, self.get)

    async def list_owned(self, owner: str, *, limit: int, before: tuple[float, str] | None = None) -> Sequence[Job]:
        created_at, job_id = before or _FIRST_PAGE
        return await self._select(_OWNED, owner=owner, created_at=created_at, id=job_id, limit=limit)

    async def list_of_user(self, user_id: str, *, limit: int, after: str = "") -> Sequence[Job]:
        return await self._select(_OF_USER, user=user_id, after=after, limit=limit)

    async def find_expired(self, now: float, *, limit: int) -> Sequence[Job]:
        return await self._select(_EXPIRED, now=now, limit=limit)

    async def _select(self, query: str, **values: object) -> list[Job]:
        values["schema"] = SCHEMA
        rows = await self._database.run(lambda connection: connection.execute(query, values).fetchall())
        return [from_document(json.loads(row[0])) for row in rows]

    async def remove(self, job: Job) -> None:
        def work(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                found = _read_job(connection, job.id)
                if found is not None and found.version == job.version:
                    _remove_job(connection, job.id)
                    if found.operation is Operation.HEADSHOT:
                        connection.execute("DELETE FROM documents WHERE path = ?", (headshot_view.locate(job.id),))

        await self._database.run(work)

    async def backlog(self, now: float) -> Backlog:
        rows = await self._database.run(lambda connection: connection.execute(_BACKLOG).fetchall())
        by_engine: dict[str, dict[str, int]] = {"queued": {}, "processing": {}}
        for status, engine, _, count, _, _ in rows:
            by_engine[status][engine] = by_engine[status].get(engine, 0) + count
        lanes = {lane: _read_lane(rows, lane, now) for lane in Lane}
        return Backlog(by_engine["queued"], by_engine["processing"], lanes)

    async def get_session(self, session: Session) -> dict[str, Any] | None:
        return await self._database.run(lambda connection: _read_document(connection, session.path))

    async def merge_session(self, session: Session, decide: Callable[[Document], Mapping[str, Any]]) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            with transaction(connection):
                document = _read_document(connection, session.path)
                if document is not None:
                    _write_document(connection, session.path, {**document, **decide(document)})
                return document is not None

        return await self._database.run(work)

    async def put_session(self, session: Session, document: Document) -> None:
        """Create or replace a session document, as the app's backend does; the service itself never calls this."""

        def work(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                _write_document(connection, session.path, document)

        await self._database.run(work)

    async def get_headshot(self, job_id: str) -> dict[str, Any] | None:
        """The document that shows a headshot, as the app's backend reads it; the service itself never calls this."""
        return await self._database.run(lambda connection: _read_document(connection, headshot_view.locate(job_id)))

    async def close(self) -> None:
        await self._watchers.close()
