"""The stores that the configured environment calls for, opened once per process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from serve_app.google_clients import find_project, make_clients
from serve_app.jobs.dead_letters import DeadLetters
from serve_app.jobs.exhaustion import Messages
from serve_app.jobs.firestore import FirestoreJobStore
from serve_app.jobs.pubsub import ExhaustedMessages, PubsubDeadLetters
from serve_app.jobs.sqlite import SqliteJobStore
from serve_app.jobs.sqlite_database import SqliteDatabase
from serve_app.jobs.sqlite_dead_letters import SqliteDeadLetters
from serve_app.jobs.store import JobStore
from serve_app.photos.folder import FolderPhotoStore
from serve_app.photos.gcs import GcsPhotoStore
from serve_app.photos.store import PhotoStore
from serve_app.settings import Settings


@dataclass(frozen=True, slots=True)
class Stores:
    """`exhausted` are the messages Pub/Sub gave up; None where there is no Pub/Sub."""

    jobs: JobStore
    dead_letters: DeadLetters
    photos: PhotoStore
    close: Callable[[], Awaitable[None]]
    exhausted: Messages | None = None


def check_environment(settings: Settings) -> None:
    """Raises ConfigurationError for an environment whose stores cannot be had; asked before anything is started."""
    if settings.env == "gcp":
        find_project(settings)


def open_stores(settings: Settings) -> Stores:
    """In `gcp` the stores belong to the event loop that uses them first. Raises ConfigurationError."""
    return _open_google(settings) if settings.env == "gcp" else _open_embedded(settings)


def _open_embedded(settings: Settings) -> Stores:
    root = settings.data_dir.expanduser().resolve()
    database = SqliteDatabase(root / "pawfect.db")
    jobs = SqliteJobStore(database)

    async def close() -> None:
        await jobs.close()
        database.close()

    return Stores(jobs, SqliteDeadLetters(database), FolderPhotoStore(root / "photos"), close)


def _open_google(settings: Settings) -> Stores:
    clients, google = make_clients(settings), settings.google
    jobs = FirestoreJobStore(clients.firestore, google)
    photos = GcsPhotoStore(clients.storage, clients.bucket, google)

    async def close() -> None:
        await jobs.close()
        photos.close()
        await clients.close()

    letters = PubsubDeadLetters(clients.publisher, clients.topic(google.dead_letter_topic), google)
    exhausted = ExhaustedMessages(clients.subscriber, clients.subscription(google.dead_letter_subscription), google)
    return Stores(jobs, letters, photos, close, exhausted)
