"""Links to this service's own `/files/`, signed by itself.

A link is its path and its query as they are written: HMAC-SHA-256 (RFC 2104) over the method, the path and the query's
text up to the signature. Nothing of a query is interpreted before the signature holds, and nothing is left out of it,
so that parameters cannot be added, doubled, reordered or spelled otherwise.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, quote, urlencode

from serve_app.clock import Clock
from serve_app.errors import ConfigurationError, Forbidden, Gone
from serve_app.photos.links import Link, UploadLink, check_media_type, check_path
from serve_app.settings_headshots import LinkSettings

FILES_PATH = "/files/"
KEY_BYTES = 32
"""As long as the hash; RFC 2104, section 3, discourages a shorter key, and a longer one gains nothing."""
DOWNLOAD, UPLOAD = "GET", "PUT"
_SIGNATURE = "&signature="


@dataclass(frozen=True, slots=True)
class Grant:
    """What a link allows. `file_name` is of a download, `max_bytes` of an upload; `expires_at` is a Unix time."""

    path: str
    content_type: str
    file_name: str
    max_bytes: int
    expires_at: int


class ServiceLinks:
    """`base_url` is scheme and host, without a slash at its end."""

    def __init__(self, key: bytes, base_url: str, settings: LinkSettings, clock: Clock) -> None:
        self._key = key
        self._base_url = base_url
        self._settings = settings
        self._clock = clock

    async def sign_download(self, path: str, content_type: str, file_name: str) -> Link:
        expires_at = int(self._clock.now()) + self._settings.download_ttl_s
        url = self._write(DOWNLOAD, path, {"expires": str(expires_at), "type": content_type, "name": file_name})
        return Link(url, float(expires_at))

    async def sign_upload(self, path: str, content_type: str, max_bytes: int) -> UploadLink:
        expires_at = int(self._clock.now()) + self._settings.upload_ttl_s
        url = self._write(UPLOAD, path, {"expires": str(expires_at), "type": content_type, "limit": str(max_bytes)})
        return UploadLink(url, UPLOAD, {"Content-Type": content_type}, float(expires_at))

    def verify(self, method: str, path: str, query: str, now: float) -> Grant:
        """`path` is the store's, decoded; `query` the text behind the question mark, as it came. A download may be
        asked for by HEAD. Raises Forbidden for what is not signed, Gone for what has expired."""
        signed, _, signature = query.rpartition(_SIGNATURE)
        expected = self._sign(DOWNLOAD if method == "HEAD" else method, path, signed)
        if not hmac.compare_digest(expected.encode(), signature.encode(errors="replace")):
            raise Forbidden("This link was not signed by this service, or was changed.")
        fields = {name: values[0] for name, values in parse_qs(signed, keep_blank_values=True).items()}
        expires_at = int(fields["expires"])
        if now >= expires_at:
            raise Gone("This link has expired; ask for a new one.")
        return Grant(path, fields["type"], fields.get("name", ""), int(fields.get("limit", "0")), expires_at)

    def _write(self, method: str, path: str, fields: dict[str, str]) -> str:
        check_path(path)
        check_media_type(fields["type"])
        query = urlencode(fields, quote_via=quote, safe="")
        return f"{self._base_url}{FILES_PATH}{quote(path)}?{query}{_SIGNATURE}{self._sign(method, path, query)}"

    def _sign(self, method: str, path: str, query: str) -> str:
        # As a JSON list no two triples have one text.
        text = json.dumps([method, path, query])
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


def open_key(path: Path) -> bytes:
    """The key of that file, which is made, for its owner alone, when there is none. Two processes that make it at once
    get the same one. Raises ConfigurationError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        key = _read(path)
        key = _make(path) if key is None else key
    except OSError as error:
        raise ConfigurationError(f"The key of the links, {path}, cannot be had: {error.strerror}.") from error
    if len(key) != KEY_BYTES:
        raise ConfigurationError(
            f"{path} has {len(key)} bytes where the links' key has {KEY_BYTES}; remove it, and a new one is made: "
            "links under way will be refused."
        )
    return key


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(KEY_BYTES + 1)
    except FileNotFoundError:
        return None


def _make(path: Path) -> bytes:
    """Written under another name, which is readable by its owner alone, and linked when it is whole: the first wins."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".link-key-") as file:
        file.write(secrets.token_bytes(KEY_BYTES))
        file.flush()
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(file.name)
        return path.read_bytes()
