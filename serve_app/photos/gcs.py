"""Photos in a Cloud Storage bucket.

Time: a look (`stat`) ends after `timeout_s`, a read or write after `transfer_timeout_s`, retries included; then the
caller gets StoreUnavailable. Calls run on threads of this store, so the event loop never waits; a thread whose caller
has gone is back after at most one more such time.

Retries: what Google calls retryable (connection errors, 408, 429, 5xx), with exponential backoff from 0.25 to 4 s, and
only where a repeat is harmless (https://cloud.google.com/storage/docs/retry-strategy): reads always, a broken download
goes on where it stopped; uploads only under a generation precondition, `replace` never; a deletion always, since only
what nobody writes any more is deleted.

Repeated uploads: when an upload got through and its answer did not, the repeat meets our own object and is answered
412. So a 412 over an object of the very same bytes (MD5) counts as written. The same holds for an upload that a
timed-out call left under way, and for a predecessor that lost its lease: equal jobs give equal bytes.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.client
import io
import logging
import mimetypes
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TypeVar

import requests
import urllib3
from google.api_core import exceptions as google_errors
from google.auth.exceptions import GoogleAuthError
from google.cloud.storage import Blob, Client
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY, ConditionalRetryPolicy, is_generation_specified

from serve_app.errors import ObjectMissing, PhotoTooLarge, PreconditionFailed, StoreUnavailable
from serve_app.google_clients import STORAGE_CONNECTIONS
from serve_app.photos.store import ABSENT, StoredObject
from serve_app.settings_sections import GoogleSettings

log = logging.getLogger(__name__)

T = TypeVar("T")

READ_ATTEMPTS = 3
"""How often an object may be replaced between its metadata and its content before a read gives up."""

_BACKOFF = DEFAULT_RETRY.with_delay(initial=0.25, maximum=4.0)

_VENDOR_ERRORS = (
    google_errors.GoogleAPIError,
    GoogleAuthError,
    InvalidResponse,
    DataCorruption,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
)


class GcsPhotoStore:
    """Makes no call by itself: whether the bucket is there shows at the first use, as StoreUnavailable."""

    def __init__(self, client: Client, bucket: str, settings: GoogleSettings) -> None:
        self._bucket = client.bucket(bucket)
        self._look_s = settings.timeout_s
        self._transfer_s = settings.transfer_timeout_s
        self._threads = ThreadPoolExecutor(STORAGE_CONNECTIONS, thread_name_prefix="gcs")

    async def stat(self, path: str) -> str:
        return await self._call(path, self._look_s, lambda: self._stat(path))

    async def read(self, path: str, *, max_bytes: int) -> StoredObject:
        return await self._call(path, self._transfer_s, lambda: self._read(path, max_bytes))

    async def write(self, path: str, data: bytes, *, content_type: str, expected: str) -> str:
        generation = int(expected) if expected else 0  # 0: only if there is no such object
        return await self._call(path, self._transfer_s, lambda: self._write(path, data, content_type, generation))

    async def replace(self, path: str, data: bytes) -> str:
        """Write without a precondition, as the app's uploads do; the service itself never calls this."""
        content_type = mimetypes.guess_type(path)[0] or "application/octet-stream"
        return await self._call(path, self._transfer_s, lambda: self._write(path, data, content_type, None))

    async def delete(self, path: str) -> None:
        await self._call(path, self._look_s, lambda: self._delete(path))

    def close(self) -> None:
        """Calls under way end on their own; the client is its maker's to close."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _call(self, path: str, seconds: float, work: Callable[[], T]) -> T:
        def translated() -> T:
            with _translated(path):
                return work()

        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().run_in_executor(self._threads, translated)
        except TimeoutError:
            raise StoreUnavailable(f"Cloud Storage did not answer for {path} within {seconds:g} s.") from None

    def _stat(self, path: str) -> str:
        found = self._find(path)
        return ABSENT if found is None else str(found.generation)

    def _find(self, path: str) -> Blob | None:
        blob = self._bucket.blob(path)
        try:
            blob.reload(timeout=self._look_s, retry=_BACKOFF.with_timeout(self._look_s))
        except google_errors.NotFound as error:
            self._refuse_missing_bucket(error)
            return None
        return blob

    def _refuse_missing_bucket(self, error: google_errors.NotFound) -> None:
        """A wrong bucket name must not look like a missing photo, which would end every job for good."""
        if "bucket does not exist" in str(error):
            raise StoreUnavailable(f"There is no bucket {self._bucket.name}.") from error

    def _read(self, path: str, max_bytes: int) -> StoredObject:
        name = PurePosixPath(path).name
        give_up_at = time.monotonic() + self._transfer_s
        for _ in range(READ_ATTEMPTS):
            found = self._find(path)
            if found is None:
                raise ObjectMissing(f"There is no {name} at {path}; upload it before asking for the edit.")
            if found.size > max_bytes:
                raise PhotoTooLarge(f"{name} has {found.size} bytes; at most {max_bytes} are accepted.")
            content = _Content(name, max_bytes, give_up_at)
            if self._download(path, found.generation, content):
                return StoredObject(content.getvalue(), str(found.generation))
        raise StoreUnavailable(f"{path} was replaced again and again while it was being read.")

    def _download(self, path: str, generation: int, content: _Content) -> bool:
        """Exactly this generation; False when it has been replaced meanwhile."""
        try:
            self._bucket.blob(path, generation=generation).download_to_file(
                content, timeout=self._look_s, retry=_BACKOFF.with_timeout(self._transfer_s)
            )
        except google_errors.NotFound as error:
            self._refuse_missing_bucket(error)
            return False
        return True

    def _write(self, path: str, data: bytes, content_type: str, expected: int | None) -> str:
        blob = self._bucket.blob(path)
        retry = _BACKOFF.with_timeout(self._transfer_s)
        try:
            blob.upload_from_string(
                data,
                content_type=content_type,
                if_generation_match=expected,
                # One number: the time to connect is also what sending the whole body may take on a plain socket.
                timeout=self._transfer_s,
                retry=ConditionalRetryPolicy(retry, is_generation_specified, ["query_params"]),
            )
        except google_errors.PreconditionFailed as error:
            return self._recognise(path, data, expected, error)
        except google_errors.NotFound as error:
            raise StoreUnavailable(f"There is no bucket {self._bucket.name}.") from error
        return str(blob.generation)

    def _delete(self, path: str) -> None:
        try:
            self._bucket.blob(path).delete(timeout=self._look_s, retry=_BACKOFF.with_timeout(self._look_s))
        except google_errors.NotFound as error:
            self._refuse_missing_bucket(error)

    def _recognise(self, path: str, data: bytes, expected: int | None, error: Exception) -> str:
        """The generation of what lies there if it is what was to be written; else PreconditionFailed."""
        found = self._find(path)
        digest = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        if found is None or found.md5_hash != digest:
            there = "none" if found is None else found.generation
            raise PreconditionFailed(f"{path} is of generation {there}, not {expected or 'none'}.") from error
        log.info("upload had already arrived", extra={"path": path, "generation": str(found.generation)})
        return str(found.generation)


class _Content(io.BytesIO):
    """Takes a download, within its bounds: what is compressed in the bucket arrives larger than its size said, and one
    that comes slowly never meets the time-out of a single read."""

    def __init__(self, name: str, max_bytes: int, give_up_at: float) -> None:
        super().__init__()
        self._name = name
        self._max_bytes = max_bytes
        self._give_up_at = give_up_at

    def write(self, chunk: bytes) -> int:  # type: ignore[override]
        if self.tell() + len(chunk) > self._max_bytes:
            raise PhotoTooLarge(f"{self._name} has more than the {self._max_bytes} bytes that are accepted.")
        if time.monotonic() > self._give_up_at:
            raise StoreUnavailable(f"{self._name} came too slowly from Cloud Storage.")
        return super().write(chunk)


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except _VENDOR_ERRORS as error:
        log.warning("cloud storage: %s", error, extra={"path": path})
        raise StoreUnavailable(f"Cloud Storage did not answer for {path}: {_describe(error)}.") from error


def _describe(error: BaseException) -> str:
    """Short, and without the account and the URL that Google's own text has; those are in the log."""
    if isinstance(error, google_errors.RetryError) and error.cause is not None:
        error = error.cause
    if isinstance(error, google_errors.GoogleAPICallError) and error.code is not None:
        return f"{int(error.code)} {http.client.responses.get(int(error.code), '')}".strip()
    return type(error).__name__
