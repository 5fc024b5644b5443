"""The stores that the configured environment calls for, opened once per process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from serve_app.errors import ConfigurationError
from serve_app.jobs.dead_letters import DeadLetters
from serve_app.jobs.sqlite import SqliteDatabase, SqliteDeadLetters, SqliteJobStore
from serve_app.jobs.store import JobStore
from serve_app.photos.folder import FolderPhotoStore
from serve_app.photos.store import PhotoStore
from serve_app.settings import Settings


@dataclass(frozen=True, slots=True)
class Stores:
    jobs: JobStore
    dead_letters: DeadLetters
    photos: PhotoStore
    close: Callable[[], Awaitable[None]]


def check_environment(settings: Settings) -> None:
    """Raises ConfigurationError for an environment whose stores cannot be had; asked before anything is started."""
    if settings.env == "gcp":
        raise ConfigurationError(
            "ENV=gcp needs the Firestore and Cloud Storage adapters, which this version does not have; use ENV=local."
        )


def open_stores(settings: Settings) -> Stores:
    """Raises ConfigurationError when the stores cannot be had."""
    check_environment(settings)
    root = settings.data_dir.expanduser().resolve()
    database = SqliteDatabase(root / "pawfect.db")
    jobs = SqliteJobStore(database)

    async def close() -> None:
        await jobs.close()
        database.close()

    return Stores(jobs, SqliteDeadLetters(database), FolderPhotoStore(root / "photos"), close)
