"""What every test may use: makers of jobs, photos and stores, and the skips with their reasons."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serve_app.jobs.sqlite import SqliteDatabase, SqliteDeadLetters, SqliteJobStore
from serve_app.photos.folder import FolderPhotoStore
from serve_app.stores import Stores


class FakeClock:
    """Time that only a test moves."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.time = now

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += seconds


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[Stores]:
    database = SqliteDatabase(tmp_path / "pawfect.db")
    jobs = SqliteJobStore(database)
    yield Stores(jobs, SqliteDeadLetters(database), FolderPhotoStore(tmp_path / "photos"))
    await jobs.close()
    database.close()
