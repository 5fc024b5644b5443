"""The embedded photo store: a folder with the same paths as the bucket, safe between the processes of one machine."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from serve_app.errors import ObjectMissing, PhotoTooLarge, PreconditionFailed, StoreUnavailable
from serve_app.photos.store import ABSENT, StoredObject

LEFTOVER_S = 3600
"""Age of an unfinished upload, in seconds, past which it belongs to nobody."""


class FolderPhotoStore:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._uploads = root / ".uploads"
        self._uploads.mkdir(parents=True, exist_ok=True)
        self._clear_leftovers()

    async def stat(self, path: str) -> str:
        return await asyncio.to_thread(self._stat, path)

    async def read(self, path: str, *, max_bytes: int) -> StoredObject:
        return await asyncio.to_thread(self._read, path, max_bytes)

    async def write(self, path: str, data: bytes, *, content_type: str, expected: str) -> str:  # noqa: ARG002
        return await asyncio.to_thread(self._write, path, data, expected)

    async def replace(self, path: str, data: bytes) -> str:
        """Write without a precondition, as the app's uploads do; the service itself never calls this."""
        return await asyncio.to_thread(self._write, path, data, None)

    async def delete(self, path: str) -> None:
        await asyncio.to_thread(self._delete, path)

    def _locate(self, path: str) -> Path:
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts:
            raise ValueError(f"not an object path: {path!r}")
        return self._root.joinpath(*parts)

    def _stat(self, path: str) -> str:
        with _translated(path):
            try:
                return _generation(self._locate(path).stat())
            except (FileNotFoundError, NotADirectoryError):
                return ABSENT

    def _read(self, path: str, max_bytes: int) -> StoredObject:
        name = PurePosixPath(path).name
        with _translated(path):
            try:
                with self._locate(path).open("rb") as file:
                    status = os.fstat(file.fileno())
                    if status.st_size > max_bytes:
                        raise PhotoTooLarge(f"{name} has {status.st_size} bytes; at most {max_bytes} are accepted.")
                    return StoredObject(file.read(), _generation(status))
            except (FileNotFoundError, NotADirectoryError):
                raise ObjectMissing(f"There is no {name} at {path}; upload it before asking for the edit.") from None

    def _write(self, path: str, data: bytes, expected: str | None) -> str:
        target = self._locate(path)
        with _translated(path), self._locked():
            if expected is not None and (found := self._stat(path)) != expected:
                raise PreconditionFailed(f"{path} is of generation {found or 'none'}, not {expected or 'none'}.")
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._uploads, delete=False) as file:
                try:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                    generation = _generation(os.fstat(file.fileno()))
                    Path(file.name).replace(target)
                except BaseException:
                    Path(file.name).unlink(missing_ok=True)
                    raise
            return generation

    def _delete(self, path: str) -> None:
        """The file, and the folders that only it kept."""
        target = self._locate(path)
        with _translated(path), self._locked(), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            target.unlink()
            for folder in target.parents:
                if folder == self._root or any(folder.iterdir()):
                    return
                folder.rmdir()

    def _clear_leftovers(self) -> None:
        """Remove uploads that a crash cut off; none that is under way takes so long."""
        for leftover in self._uploads.iterdir():
            with contextlib.suppress(OSError):
                if leftover.stat().st_mtime < time.time() - LEFTOVER_S:
                    leftover.unlink()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Between check and rename no other process may write; the lock goes with its process, also by SIGKILL."""
        with (self._root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _generation(status: os.stat_result) -> str:
    # The inode tells apart two writes within one tick of the file system's clock.
    return f"{status.st_mtime_ns:x}-{status.st_ino:x}-{status.st_size:x}"


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise StoreUnavailable(f"The photo folder did not answer for {path}: {error}.") from error
