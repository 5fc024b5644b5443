"""One SQLite file in WAL mode, shared by the processes of one machine, and the tables in it.

Every write is one `BEGIN IMMEDIATE` transaction and durable when it returns (`synchronous=FULL`), so an accepted job
outlives a SIGKILL of everything. All statements of one process run on one thread that owns the connection.

Each write of a job takes the next change number, and so does its removal, which leaves the number and the id in
`removals`: watchers hear of it, and no number is given twice.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from serve_app.errors import ConfigurationError, StoreUnavailable

T = TypeVar("T")

BUSY_TIMEOUT_S = 10.0
"""How long a writer waits for another process's transaction; they last milliseconds."""

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
CREATE INDEX IF NOT EXISTS jobs_by_lane
    ON jobs ((json_extract(body, '$.operation') IS 'PetHeadshot'), status, priority, created_at);
CREATE INDEX IF NOT EXISTS jobs_by_change ON jobs (change);
CREATE INDEX IF NOT EXISTS jobs_by_owner ON jobs (json_extract(body, '$.owner'), created_at, id);
CREATE INDEX IF NOT EXISTS jobs_by_expiry ON jobs (closed, json_extract(body, '$.expires_at'));
CREATE TABLE IF NOT EXISTS removals (change INTEGER PRIMARY KEY, id TEXT NOT NULL);
CREATE VIEW IF NOT EXISTS changes AS SELECT change, id FROM jobs UNION ALL SELECT change, id FROM removals;
CREATE VIEW IF NOT EXISTS last_change AS SELECT MAX(
    IFNULL((SELECT MAX(change) FROM jobs), 0), IFNULL((SELECT MAX(change) FROM removals), 0)) AS number;
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
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
