"""Links to files, for whoever holds them and for a while: who carries one needs no other credential."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+")  # RFC 6838, section 4.2
_UNSAFE = re.compile(
    r'[^ -~]|["\\%]'
)  # in a quoted file name: what is not ASCII, and what clients unescape differently


@dataclass(frozen=True, slots=True)
class Link:
    """`expires_at` is a Unix time, whole seconds; from then on the link is refused."""

    url: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class UploadLink:
    """The file is to be sent as the body of a request with this `method` and with all of these `headers`, as they are.
    A link works once: what is there is never replaced."""

    url: str
    method: str
    headers: Mapping[str, str]
    expires_at: float


class Links(Protocol):
    """Paths are those of the photo store, mounts included. Whether there is such a file is not looked at.

    Both raise StoreUnavailable when nobody signs, and ValueError for a path, type or size that no link can have.
    """

    async def sign_download(self, path: str, content_type: str, file_name: str) -> Link:
        """`file_name` is what a browser saves the file as; `content_type` what it is told the file is."""

    async def sign_upload(self, path: str, content_type: str, max_bytes: int) -> UploadLink:
        """For one new file of at most so many bytes, sent with that content type."""


def check_path(path: str) -> None:
    """Raises ValueError for what a URL could not name in exactly one way, or would lead out of the store."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or not path.isprintable():
        raise ValueError(f"not an object path: {path!r}")


def check_media_type(content_type: str) -> None:
    """Raises ValueError for anything but type/subtype."""
    if not _MEDIA_TYPE.fullmatch(content_type):
        raise ValueError(f"not a media type: {content_type!r}")


def write_disposition(file_name: str) -> str:
    """The value of Content-Disposition: shown where it can be, saved under that name (RFC 6266, section 4)."""
    plain = _UNSAFE.sub("_", file_name)
    header = f'inline; filename="{plain}"'
    return header if plain == file_name else f"{header}; filename*=UTF-8''{quote(file_name, safe='')}"
