"""What changed lately in the jobs table, by the number that each write or removal of a job takes."""

from __future__ import annotations

import sqlite3
from functools import partial

from serve_app.jobs.sqlite_database import SqliteDatabase

WATCH_INTERVAL_S = 0.1
"""How often a process with watchers looks; an indexed query."""


class SqliteChanges:
    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._last: int | None = None

    async def read(self) -> set[str] | None:
        """The ids of the jobs changed since the last call; None for all, when nothing was read before."""
        self._last, touched = await self._database.run(partial(_read_changes, since=self._last))
        return touched


def _read_changes(connection: sqlite3.Connection, since: int | None) -> tuple[int, set[str] | None]:
    """The latest change and the ids of the jobs changed after `since`; `None` for all, when nothing was read before."""
    if since is None:
        return connection.execute("SELECT number FROM last_change").fetchone()[0], None
    rows = connection.execute("SELECT change, id FROM changes WHERE change > ?", (since,)).fetchall()
    return max((row[0] for row in rows), default=since), {row[1] for row in rows}
