"""Putting a session in place and reading it back, as the app's backend does; in the embedded stores or in Google's."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Protocol

from google.pubsub_v1 import PubsubMessage

from serve_app.google_clients import make_clients
from serve_app.jobs.firestore import FirestoreJobStore
from serve_app.jobs.model import Session
from serve_app.jobs.pubsub import publish
from serve_app.jobs.session_view import Document
from serve_app.jobs.sqlite import SqliteJobStore
from serve_app.jobs.sqlite_database import SqliteDatabase
from serve_app.photos.folder import FolderPhotoStore
from serve_app.photos.gcs import GcsPhotoStore
from serve_app.photos.mounts import HEADSHOT_ORIGINALS
from serve_app.photos.store import PhotoStore
from serve_app.settings import Settings


class AppDocuments(Protocol):
    """The app's side of the session documents: it makes them."""

    async def get_session(self, session: Session) -> dict[str, Any] | None: ...

    async def put_session(self, session: Session, document: Document) -> None: ...

    async def get_headshot(self, job_id: str) -> dict[str, Any] | None: ...


class AppPhotos(PhotoStore, Protocol):
    """The app's side of the photos: it uploads without asking what was there."""

    async def replace(self, path: str, data: bytes) -> str: ...


class AppBackend:
    def __init__(self, sessions: AppDocuments, photos: AppPhotos) -> None:
        self._sessions = sessions
        self._photos = photos

    async def create(
        self, session: Session, photo: bytes | None, mask: bytes | None, document: dict[str, Any] | None = None
    ) -> None:
        """Upload what is given, then write the session's document, replacing an older one."""
        if photo is not None:
            await self._photos.replace(session.original_path, photo)
        if mask is not None:
            await self._photos.replace(session.mask_path, mask)
        await self._sessions.put_session(session, document or {"createdBy": "pawfect"})

    async def read(self, session: Session) -> dict[str, Any] | None:
        return await self._sessions.get_session(session)

    async def read_headshot(self, job_id: str) -> dict[str, Any] | None:
        """The document that shows a headshot."""
        return await self._sessions.get_headshot(job_id)

    async def download(self, path: str) -> bytes:
        return (await self._photos.read(path, max_bytes=2**30)).data

    async def generation(self, path: str) -> str:
        return await self._photos.stat(path)

    async def export(self, session: Session, out: Path) -> None:
        """Write the session's objects and its document into a folder; objects that are not there are left out."""
        for path in (session.original_path, session.mask_path, session.edited_path, session.preview_path):
            if await self._photos.stat(path):
                (out / Path(path).name).write_bytes(await self.download(path))
        document = await self.read(session)
        (out / "session.json").write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")


class Backend(AppBackend):
    """On the embedded stores below `data_dir`."""

    def __init__(self, data_dir: Path) -> None:
        self._database = SqliteDatabase(data_dir / "pawfect.db")
        super().__init__(SqliteJobStore(self._database), FolderPhotoStore(data_dir / "photos"))

    def close(self) -> None:
        self._database.close()


class GoogleBackend(AppBackend):
    """On Firestore, Cloud Storage and Pub/Sub, or their emulators; belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._clients = make_clients(settings)
        self._google = settings.google
        self._storage = GcsPhotoStore(self._clients.storage, self._clients.bucket, settings.google)
        super().__init__(FirestoreJobStore(self._clients.firestore, settings.google), self._storage)

    async def publish_headshot(self, job_id: str, photo: bytes, file_name: str = "photo.jpg") -> str:
        """Upload a photo into the bucket of the originals and ask for its headshot. Raises StoreUnavailable."""
        bucket = self._google.headshot_originals or self._clients.bucket
        folder = "" if self._google.headshot_originals else HEADSHOT_ORIGINALS
        key = f"{folder}{job_id}/original/{file_name}"
        originals = GcsPhotoStore(self._clients.storage, bucket, self._google)
        await originals.replace(key, photo)
        originals.close()
        message = {"job_id": job_id, "orig_bucket": bucket, "orig_key": key}
        return await self.publish(json.dumps(message).encode(), self._google.headshot_topic)

    async def publish(self, data: bytes, topic_name: str | None = None) -> str:
        """Publish what the app's backend would, to the sessions' topic unless another is named, and return the
        message's id. Raises StoreUnavailable."""
        topic = self._clients.topic(topic_name or self._google.topic)
        message = PubsubMessage(data=data)
        return await asyncio.to_thread(publish, self._clients.publisher, topic, message, self._google.timeout_s)

    async def publish_session(self, session: Session, **options: Any) -> str:
        message = {"userId": session.user_id, "sessionId": session.session_id, **options}
        return await self.publish(json.dumps(message).encode())

    async def close(self) -> None:
        self._storage.close()
        await self._clients.close()
