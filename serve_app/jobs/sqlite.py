"""The embedded job store: one SQLite file in WAL mode, shared by the processes of one machine.

Every write is one `BEGIN IMMEDIATE` transaction and durable when it returns (`synchronous=FULL`), so an accepted job
outlives a SIGKILL of everything. All statements of one process run on one thread that owns the connection.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from serve_app.errors import ConfigurationError, StoreUnavailable
from serve_app.jobs.dead_letters import DeadLetter
from serve_app.jobs.model import SCHEMA, Job, Priority, Session, Status, from_document, to_document
from serve_app.jobs.session_view import Document
from serve_app.jobs.store import Backlog, Decide, Write

T = TypeVar("T")

BUSY_TIMEOUT_S = 10.0
"""How long a writer waits for another process's transaction; they last milliseconds."""
WATCH_INTERVAL_S = 0.1
"""How often a process with watchers looks for changes; one indexed query whatever their number."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    status TEXT NOT NULL,
    priority INTEGER NOT NULL,
    created_at REAL NOT NULL,
    not_before REAL NOT NULL,
    lease_expires_at REAL,
    deadline_at REAL NOT NULL,
    closed INTEGER NOT NULL,
    schema INTEGER NOT NULL,
    change INTEGER NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS jobs_by_urgency ON jobs (status, priority, created_at);
CREATE INDEX IF NOT EXISTS jobs_by_change ON jobs (change);
CREATE TABLE IF NOT EXISTS documents (path TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS dead_letters (
    id TEXT PRIMARY KEY,
    at REAL NOT NULL,
    reason TEXT NOT NULL,
    message TEXT NOT NULL,
    data TEXT NOT NULL,
    attributes TEXT NOT NULL
);
"""

_CLAIMABLE = """
SELECT body FROM jobs
WHERE ((status = 'queued' AND not_before <= :now) OR (status = 'processing' AND lease_expires_at <= :now))
  AND priority <= :least AND schema <= :schema
ORDER BY priority, created_at LIMIT 1
"""


class SqliteDatabase:
    """One file and the thread that speaks to it. `run` is safe to call from any event loop."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        self._connection = self._thread.submit(self._open).result()

    def _open(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise ConfigurationError(f"{self.path} cannot be used as the job database: {error}.") from error
        return connection

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.wrap_future(self._thread.submit(self._guarded, work))

    def _guarded(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return work(self._connection)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"The job database did not answer: {error}.") from error

    def close(self) -> None:
        self._thread.submit(self._connection.close).result()
        self._thread.shutdown()


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Any:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _read_document(connection: sqlite3.Connection, path: str) -> dict[str, Any] | None:
    row = connection.execute("SELECT body FROM documents WHERE path = ?", (path,)).fetchone()
    return json.loads(row[0]) if row else None


def _write_document(connection: sqlite3.Connection, path: str, body: Mapping[str, Any]) -> None:
    connection.execute("INSERT OR REPLACE INTO documents VALUES (?, ?)", (path, json.dumps(body)))


def _read_job(connection: sqlite3.Connection, job_id: str) -> Job | None:
    row = connection.execute("SELECT body FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return from_document(json.loads(row[0])) if row else None


def _apply(connection: sqlite3.Connection, job: Job | None, session: Session, decide: Decide) -> Job | None:
    document = _read_document(connection, session.path)
    write = decide(job, document)
    if write is None:
        return job
    if write.fields and document is not None:
        _write_document(connection, session.path, {**document, **write.fields})
    return _write_job(connection, write)


def _write_job(connection: sqlite3.Connection, write: Write) -> Job:
    job = write.job.evolve(version=write.job.version + 1)
    connection.execute(
        "INSERT OR REPLACE INTO jobs VALUES (?,?,?,?,?,?,?,?,?,(SELECT IFNULL(MAX(change), 0) + 1 FROM jobs),?)",
        (
            job.id,
            str(job.status),
            int(job.priority),
            job.created_at,
            job.not_before,
            job.lease.expires_at if job.lease else None,
            job.deadline_at,
            int(job.closed),
            SCHEMA,
            json.dumps(to_document(job)),
        ),
    )
    return job


class SqliteJobStore:
    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._changes = _Changes(database)

    async def change(self, job_id: str, session: Session, decide: Decide) -> Job | None:
        def work(connection: sqlite3.Connection) -> Job | None:
            with _transaction(connection):
                return _apply(connection, _read_job(connection, job_id), session, decide)

        return await self._database.run(work)

    async def claim(self, now: float, decide: Decide, *, urgent_only: bool = False) -> Job | None:
        least = Priority.URGENT if urgent_only else max(Priority)
        values = {"now": now, "least": int(least), "schema": SCHEMA}

        def work(connection: sqlite3.Connection) -> Job | None:
            # A look without the write lock first: idle Editors poll, and must not hold up those who write.
            if connection.execute(_CLAIMABLE, values).fetchone() is None:
                return None
            with _transaction(connection):
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

    async def watch(self, job_id: str) -> AsyncIterator[Job]:
        seen = -1
        with self._changes.subscribe(job_id) as changed:
            while (job := await self.get(job_id)) is not None:
                if job.version != seen:
                    seen = job.version
                    yield job
                if job.status.is_final:
                    return
                await changed.wait()
                changed.clear()

    async def backlog(self, now: float) -> Backlog:
        query = """
            SELECT COUNT(*) FILTER (WHERE status = 'queued'), COUNT(*) FILTER (WHERE status = 'processing'),
                   MIN(created_at) FILTER (WHERE status = 'queued')
            FROM jobs WHERE status IN ('queued', 'processing')"""
        queued, running, oldest = await self._database.run(lambda connection: connection.execute(query).fetchone())
        return Backlog(queued, running, max(0.0, now - oldest) if oldest is not None else 0.0)

    async def get_session(self, session: Session) -> dict[str, Any] | None:
        return await self._database.run(lambda connection: _read_document(connection, session.path))

    async def merge_session(self, session: Session, decide: Callable[[Document], Mapping[str, Any]]) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            with _transaction(connection):
                document = _read_document(connection, session.path)
                if document is not None:
                    _write_document(connection, session.path, {**document, **decide(document)})
                return document is not None

        return await self._database.run(work)

    async def put_session(self, session: Session, document: Document) -> None:
        """Create or replace a session document, as the app's backend does; the service itself never calls this."""

        def work(connection: sqlite3.Connection) -> None:
            with _transaction(connection):
                _write_document(connection, session.path, document)

        await self._database.run(work)

    async def close(self) -> None:
        await self._changes.close()


class SqliteDeadLetters:
    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def put(self, letter: DeadLetter) -> bool:
        values = (letter.id, letter.at, letter.reason, letter.message, letter.data, json.dumps(dict(letter.attributes)))

        def work(connection: sqlite3.Connection) -> bool:
            return (
                connection.execute("INSERT OR IGNORE INTO dead_letters VALUES (?, ?, ?, ?, ?, ?)", values).rowcount > 0
            )

        return await self._database.run(work)

    async def remove(self, letter_id: str) -> None:
        """For replaying; the service itself never calls this, nor `latest`."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM dead_letters WHERE id = ?", (letter_id,))

        await self._database.run(work)

    async def latest(self, limit: int) -> Sequence[DeadLetter]:
        """The newest first."""
        query = "SELECT id, at, reason, message, data, attributes FROM dead_letters ORDER BY at DESC LIMIT ?"
        rows = await self._database.run(lambda connection: connection.execute(query, (limit,)).fetchall())
        return [
            DeadLetter(letter_id, at, reason, message, data, json.loads(attributes))
            for letter_id, at, reason, message, data, attributes in rows
        ]


def _read_changes(connection: sqlite3.Connection, since: int | None) -> tuple[int, set[str] | None]:
    """The latest change and the ids of the jobs changed after `since`; `None` for all, when nothing was read before."""
    if since is None:
        return connection.execute("SELECT IFNULL(MAX(change), 0) FROM jobs").fetchone()[0], None
    rows = connection.execute("SELECT change, id FROM jobs WHERE change > ?", (since,)).fetchall()
    return max((row[0] for row in rows), default=since), {row[1] for row in rows}


class _Changes:
    """Wakes the watchers of a job when any process has changed it: one query per interval for all of them."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._poller: asyncio.Task[None] | None = None

    @contextmanager
    def subscribe(self, job_id: str) -> Any:
        changed = asyncio.Event()
        self._watchers.setdefault(job_id, set()).add(changed)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(), name="sqlite-changes")
        try:
            yield changed
        finally:
            self._watchers[job_id].discard(changed)
            if not self._watchers[job_id]:
                del self._watchers[job_id]

    async def _poll(self) -> None:
        last: int | None = None
        touched: set[str] | None
        while self._watchers:
            try:
                last, touched = await self._database.run(partial(_read_changes, since=last))
            except StoreUnavailable:
                touched = None  # let their own reads tell them
            for job_id in set(self._watchers) if touched is None else touched:
                for changed in self._watchers.get(job_id, ()):
                    changed.set()
            await asyncio.sleep(WATCH_INTERVAL_S)

    async def close(self) -> None:
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)
