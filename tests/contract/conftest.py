"""Every store implementation, opened anew for each test. A new implementation is a new row in `STORES`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from google.api_core.exceptions import Conflict

from serve_app.clock import SystemClock
from serve_app.google_clients import make_clients
from serve_app.jobs.firestore import FirestoreJobStore
from serve_app.jobs.firestore_controls import FirestoreControls
from serve_app.jobs.pubsub import PubsubDeadLetters
from serve_app.photos.gcs import GcsPhotoStore
from serve_app.photos.service_links import ServiceLinks
from serve_app.settings import Settings
from serve_app.stores import Stores, open_stores


@asynccontextmanager
async def open_embedded(root: Path) -> AsyncIterator[Stores]:
    stores = open_stores(Settings(data_dir=root))
    yield stores
    await stores.close()


@asynccontextmanager
async def open_gcp(root: Path) -> AsyncIterator[Stores]:
    """A project per folder, so that tests do not meet and processes with the same folder do."""
    project = "demo-" + hashlib.sha256(bytes(root)).hexdigest()[:16]
    settings = Settings(env="gcp", project_id=project)
    clients = make_clients(settings)
    with contextlib.suppress(Conflict):
        await asyncio.to_thread(clients.storage.create_bucket, clients.bucket)
    jobs = FirestoreJobStore(clients.firestore, settings.google)
    photos = GcsPhotoStore(clients.storage, clients.bucket, settings.google)
    links = ServiceLinks(bytes(32), "http://127.0.0.1:8000", settings.links, SystemClock())
    letters = PubsubDeadLetters(clients.publisher, clients.topic(settings.google.dead_letter_topic), settings.google)
    controls = FirestoreControls(clients.firestore, settings.google)
    yield Stores(jobs, letters, photos, links, controls, clients.close)
    await jobs.close()
    photos.close()
    await clients.close()


STORES: dict[str, Callable[[Path], AbstractAsyncContextManager[Stores]]] = {
    "embedded": open_embedded,
    "gcp": open_gcp,
}


@pytest.fixture(params=list(STORES))
def kind(request: pytest.FixtureRequest) -> str:
    """The name of the row; what it needs to run on is there."""
    if request.param == "gcp":
        request.getfixturevalue("emulators")
    return str(request.param)


embedded_only = pytest.mark.parametrize("kind", ["embedded"], indirect=True)
"""For a promise that no emulator keeps; the test that uses it says which, and what shows it instead."""


@pytest.fixture
async def stores(kind: str, tmp_path: Path) -> AsyncIterator[Stores]:
    async with STORES[kind](tmp_path) as opened:
        yield opened
