"""The embedded form of the operators' controls: a document beside the sessions'."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable

from serve_app.jobs.controls import Controls, from_document, to_document
from serve_app.jobs.sqlite_database import SqliteDatabase, transaction

PATH = "controls/serving"


class SqliteControls:
    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def read(self) -> Controls:
        return await self._database.run(_read)

    async def change(self, decide: Callable[[Controls], Controls]) -> Controls:
        def work(connection: sqlite3.Connection) -> Controls:
            with transaction(connection):
                controls = decide(_read(connection))
                body = json.dumps(to_document(controls))
                connection.execute("INSERT OR REPLACE INTO documents VALUES (?, ?)", (PATH, body))
                return controls

        return await self._database.run(work)


def _read(connection: sqlite3.Connection) -> Controls:
    row = connection.execute("SELECT body FROM documents WHERE path = ?", (PATH,)).fetchone()
    return from_document(json.loads(row[0]) if row else None)
