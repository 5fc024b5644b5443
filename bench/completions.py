"""What a benchmark sees in the embedded job store, past the service's own code: the queue, and a trigger of ours that
records every completion."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_TRIGGER = """
CREATE TABLE IF NOT EXISTS bench_completions (job TEXT, finished_at REAL, UNIQUE (job, finished_at));
CREATE TRIGGER IF NOT EXISTS bench_completion AFTER INSERT ON jobs WHEN NEW.status = 'completed' BEGIN
    INSERT OR IGNORE INTO bench_completions VALUES (NEW.id, json_extract(NEW.body, '$.finished_at'));
END;
"""
_QUEUE = """
SELECT IFNULL(SUM(status = 'queued'), 0), IFNULL(SUM(status = 'processing'), 0),
       MIN(CASE WHEN status = 'queued' THEN created_at END)
FROM jobs WHERE status IN ('queued', 'processing')
"""


@dataclass(frozen=True, slots=True)
class Queue:
    """`oldest_s` is the age of the oldest job that waits, 0 when none does."""

    queued: int
    running: int
    oldest_s: float


class Completions:
    """`database` is that of a service in ENV=local; it must be there, with its tables."""

    def __init__(self, database: Path) -> None:
        self._database = database
        with self._open() as connection:
            connection.executescript(_TRIGGER)

    def read_queue(self) -> Queue:
        with self._open() as connection:
            queued, running, oldest = connection.execute(_QUEUE).fetchone()
        return Queue(queued, running, 0.0 if oldest is None else max(0.0, time.time() - oldest))

    def count(self, status: str) -> int:
        return self._count("SELECT COUNT(*) FROM jobs WHERE status = ?", status)

    def find(self, status: str) -> set[str]:
        """Ids of the jobs in it."""
        with self._open() as connection:
            return {row[0] for row in connection.execute("SELECT id FROM jobs WHERE status = ?", (status,))}

    def find_begun(self) -> set[str]:
        """Ids of the jobs that an engine is at work on."""
        query = "SELECT id FROM jobs WHERE status = 'processing' AND json_extract(body, '$.progress.steps') > 0"
        with self._open() as connection:
            return {row[0] for row in connection.execute(query)}

    def count_repeated(self) -> int:
        """Jobs that were completed more than once."""
        return self._count("SELECT COUNT(*) FROM (SELECT job FROM bench_completions GROUP BY job HAVING COUNT(*) > 1)")

    def count_crashed(self) -> int:
        """Jobs that a worker died under."""
        return self._count("SELECT COUNT(*) FROM jobs WHERE json_extract(body, '$.crashes') > 0")

    def count_dead_letters(self) -> int:
        return self._count("SELECT COUNT(*) FROM dead_letters")

    def find_most_attempts(self) -> int:
        """Runs of the job that was begun most often."""
        return self._count("SELECT IFNULL(MAX(json_extract(body, '$.attempts')), 0) FROM jobs")

    def read_steps(self, since: float) -> list[int]:
        """Of the jobs that came from then on."""
        query = "SELECT json_extract(body, '$.parameters.steps') FROM jobs WHERE created_at >= ? ORDER BY created_at"
        with self._open() as connection:
            return [row[0] for row in connection.execute(query, (since,))]

    def _count(self, query: str, *values: str) -> int:
        with self._open() as connection:
            found: int = connection.execute(query, values).fetchone()[0]
        return found

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self._database, timeout=30)) as connection:
            yield connection
