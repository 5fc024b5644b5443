"""The embedded dead letters: a table."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from serve_app.jobs.dead_letters import DeadLetter
from serve_app.jobs.sqlite_database import SqliteDatabase


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
