"""Photos in several stores under one name space, as file systems are mounted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from serve_app.photos.store import PhotoStore, StoredObject

HEADSHOT_ORIGINALS = "headshots/originals/"
HEADSHOT_OUTPUTS = "headshots/outputs/"
"""Where the headshots' photos lie, which may have buckets of their own."""


class MountedPhotoStore:
    """A PhotoStore: a path that begins with a prefix of `mounts` goes to that store with the prefix taken off, every
    other one to `default` as it is. Prefixes end with a slash, and none begins with another."""

    def __init__(self, default: PhotoStore, mounts: Mapping[str, PhotoStore]) -> None:
        self._default = default
        self._mounts = dict(mounts)

    async def stat(self, path: str) -> str:
        store, inner = self._locate(path)
        return await store.stat(inner)

    async def read(self, path: str, *, max_bytes: int) -> StoredObject:
        store, inner = self._locate(path)
        return await store.read(inner, max_bytes=max_bytes)

    async def write(self, path: str, data: bytes, *, content_type: str, expected: str) -> str:
        store, inner = self._locate(path)
        return await store.write(inner, data, content_type=content_type, expected=expected)

    async def delete(self, path: str) -> None:
        store, inner = self._locate(path)
        await store.delete(inner)

    def _locate(self, path: str) -> tuple[PhotoStore, str]:
        prefix = find_prefix(path, self._mounts)
        return self._mounts.get(prefix, self._default), path.removeprefix(prefix)


def find_prefix(path: str, prefixes: Iterable[str]) -> str:
    """The one the path begins with, and goes on behind; empty when there is none."""
    return next((prefix for prefix in prefixes if path.startswith(prefix) and path != prefix), "")
