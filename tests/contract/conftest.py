"""Every store implementation, opened anew for each test. A new implementation is a new row in `STORES`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from serve_app.jobs.sqlite import SqliteDatabase, SqliteDeadLetters, SqliteJobStore
from serve_app.photos.folder import FolderPhotoStore
from serve_app.stores import Stores

Put = Callable[[Any, dict[str, Any]], Any]


@asynccontextmanager
async def open_embedded(root: Path) -> AsyncIterator[Stores]:
    database = SqliteDatabase(root / "pawfect.db")
    jobs = SqliteJobStore(database)
    try:
        yield Stores(jobs, SqliteDeadLetters(database), FolderPhotoStore(root / "photos"))
    finally:
        await jobs.close()
        database.close()


STORES: dict[str, Callable[[Path], AbstractAsyncContextManager[Stores]]] = {"embedded": open_embedded}


@pytest.fixture(params=list(STORES))
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    async with STORES[request.param](tmp_path) as opened:
        yield opened
