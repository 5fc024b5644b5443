"""Putting a session in place and reading it back, as the app's backend does; here in the embedded stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from serve_app.jobs.model import Session
from serve_app.jobs.sqlite import SqliteDatabase, SqliteJobStore
from serve_app.photos.folder import FolderPhotoStore


class Backend:
    """The app's backend on the embedded stores below `data_dir`."""

    def __init__(self, data_dir: Path) -> None:
        self._database = SqliteDatabase(data_dir / "pawfect.db")
        self._sessions = SqliteJobStore(self._database)
        self._photos = FolderPhotoStore(data_dir / "photos")

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

    def close(self) -> None:
        self._database.close()
