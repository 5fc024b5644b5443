"""Where photos lie: objects under paths, each write of an object making a new generation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

ABSENT = ""
"""The generation of an object that is not there; as a precondition: "write only if nobody has"."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    data: bytes
    generation: str


class PhotoStore(Protocol):
    """Every method raises StoreUnavailable when the store does not answer."""

    async def stat(self, path: str) -> str:
        """The object's generation, an opaque text; ABSENT when there is no such object."""

    async def read(self, path: str, *, max_bytes: int) -> StoredObject:
        """The size is checked before the content is read. Raises ObjectMissing, PhotoTooLarge."""

    async def write(self, path: str, data: bytes, *, content_type: str, expected: str) -> str:
        """Write the object if its generation still is `expected`, and return the new one.

        Raises PreconditionFailed, leaving the object as it is, when somebody else wrote it meanwhile.
        """

    async def delete(self, path: str) -> None:
        """Whatever its generation; an object that is not there is ignored."""
