"""Telling the watchers of one process what any process has changed."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from serve_app.errors import StoreUnavailable
from serve_app.jobs.sqlite_database import SqliteDatabase

WATCH_INTERVAL_S = 0.1
"""How often a process with watchers looks for changes; one indexed query whatever their number."""


def _read_changes(connection: sqlite3.Connection, since: int | None) -> tuple[int, set[str] | None]:
    """The latest change and the ids of the jobs changed after `since`; `None` for all, when nothing was read before."""
    if since is None:
        return connection.execute("SELECT IFNULL(MAX(change), 0) FROM jobs").fetchone()[0], None
    rows = connection.execute("SELECT change, id FROM jobs WHERE change > ?", (since,)).fetchall()
    return max((row[0] for row in rows), default=since), {row[1] for row in rows}


class Changes:
    """Wakes the watchers of a job when any process has changed it: one query per interval for all of them."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._poller: asyncio.Task[None] | None = None

    @contextmanager
    def subscribe(self, job_id: str) -> Iterator[asyncio.Event]:
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
