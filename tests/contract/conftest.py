"""Every store implementation, opened anew for each test. A new implementation is a new row in `STORES`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from serve_app.settings import Settings
from serve_app.stores import Stores, open_stores


@asynccontextmanager
async def open_embedded(root: Path) -> AsyncIterator[Stores]:
    stores = open_stores(Settings(data_dir=root))
    yield stores
    await stores.close()


STORES: dict[str, Callable[[Path], AbstractAsyncContextManager[Stores]]] = {"embedded": open_embedded}


@pytest.fixture(params=list(STORES))
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    async with STORES[request.param](tmp_path) as opened:
        yield opened
