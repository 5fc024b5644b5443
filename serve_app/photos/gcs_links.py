"""Links to Cloud Storage itself: V4 signed URLs (https://cloud.google.com/storage/docs/access-control/signed-urls).

Credentials that hold a key sign here. All others, Workload Identity among them, have IAM sign with a key of the
account's that Google keeps and nobody else sees: signBlob, for which the account needs
roles/iam.serviceAccountTokenCreator on itself. Nothing is cached; a link costs one such call.

Time: the caller is answered after `google.timeout_s`. The thread of a caller that has gone gives up then, too, when the
pause it may be in between two attempts is over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import requests
from google.auth import iam, transport
from google.auth.credentials import Credentials, Signing
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request
from google.cloud.storage import Client

from serve_app.errors import StoreUnavailable
from serve_app.photos.links import Link, UploadLink, check_media_type, check_path, write_disposition
from serve_app.photos.mounts import find_prefix
from serve_app.settings_headshots import LinkSettings
from serve_app.settings_sections import GoogleSettings

log = logging.getLogger(__name__)

T = TypeVar("T")

SIGNING_THREADS = 8
"""Links under way at a time; one call to IAM takes some 100 ms."""

IAM_LIFETIME_S = 12 * 3600
"""A key of IAM's may be gone 12 hours after it signed; no link that it signed is said to last longer
(https://cloud.google.com/storage/docs/authentication/creating-signatures)."""

_VENDOR_ERRORS = (
    GoogleAuthError,
    requests.RequestException,
    OSError,
    *(ValueError, KeyError, TypeError),  # an answer of another form than the client expects
)
_DATE = "%Y%m%dT%H%M%SZ"


class GcsLinks:
    """`buckets` are those of the mounts, by prefix; every other path is in `bucket`. Makes no call by itself.

    `session` is what IAM and the metadata server are asked with.
    """

    def __init__(
        self,
        client: Client,
        credentials: Credentials,
        bucket: str,
        buckets: Mapping[str, str],
        google: GoogleSettings,
        links: LinkSettings,
        session: requests.Session | None = None,
    ) -> None:
        self._client = client
        self._credentials = credentials
        self._bucket = bucket
        self._buckets = dict(buckets)
        self._timeout_s = google.timeout_s
        self._links = links
        self._request = Request(session)
        self._threads = ThreadPoolExecutor(SIGNING_THREADS, thread_name_prefix="links")

    async def sign_download(self, path: str, content_type: str, file_name: str) -> Link:
        check_media_type(content_type)
        url = await self._sign(
            path,
            self._links.download_ttl_s,
            method="GET",
            response_type=content_type,
            response_disposition=write_disposition(file_name),
        )
        return Link(url, read_expiry(url))

    async def sign_upload(self, path: str, content_type: str, max_bytes: int) -> UploadLink:
        check_media_type(content_type)
        headers = {
            "Content-Type": content_type,
            "x-goog-content-length-range": f"0,{max_bytes}",
            "x-goog-if-generation-match": "0",  # only where nothing is yet
        }
        url = await self._sign(path, self._links.upload_ttl_s, method="PUT", headers=dict(headers))
        return UploadLink(url, "PUT", headers, read_expiry(url))

    def close(self) -> None:
        """Calls under way end on their own."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _sign(self, path: str, lifetime_s: int, **options: Any) -> str:
        check_path(path)
        prefix = find_prefix(path, self._buckets)
        blob = self._client.bucket(self._buckets.get(prefix, self._bucket)).blob(path.removeprefix(prefix))

        def work() -> str:
            signer, lifetime = self._find_signer(lifetime_s)
            url: str = blob.generate_signed_url(
                version="v4", expiration=timedelta(seconds=lifetime), credentials=signer, **options
            )
            return url

        return await self._call(path, work)

    def _find_signer(self, lifetime_s: int) -> tuple[Signing, int]:
        """Who signs, and for how many seconds at most."""
        if isinstance(self._credentials, Signing):
            return self._credentials, lifetime_s
        request = _InTime(self._request, time.monotonic() + self._timeout_s)
        return _IamSigner(self._credentials, request), min(lifetime_s, IAM_LIFETIME_S)

    async def _call(self, path: str, work: Callable[[], T]) -> T:
        def translated() -> T:
            try:
                return work()
            except _VENDOR_ERRORS as error:
                log.warning("no link is signed: %s", error, extra={"path": path})
                raise StoreUnavailable(f"A link to {path} cannot be signed now ({type(error).__name__}).") from error

        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self._threads, translated)
        except TimeoutError:
            raise StoreUnavailable(f"A link to {path} was not signed within {self._timeout_s:g} s.") from None


class _InTime(transport.Request):
    """Asks as long as there is time, whatever is being retried above it, and explains a refusal of IAM's."""

    def __init__(self, request: Request, give_up_at: float) -> None:
        self._request = request
        self._give_up_at = give_up_at

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **more: Any,
    ) -> transport.Response:
        left = self._give_up_at - time.monotonic()
        if left <= 0:
            # Ours: a vendor's error would be tried again, with pauses.
            raise StoreUnavailable("No link was signed in time.")
        seconds = left if timeout is None else min(timeout, left)
        response: transport.Response = self._request(url, method, body, headers, timeout=seconds, **more)
        if response.status == HTTPStatus.FORBIDDEN and url.endswith(":signBlob"):
            log.warning("IAM signs no link", extra={"url": url, "answer": str(response.data)[:2000]})
            raise StoreUnavailable(
                "IAM signs no link: the service's account needs roles/iam.serviceAccountTokenCreator on itself, and "
                "its project the API iamcredentials.googleapis.com."
            )
        return response


class _IamSigner(Signing):
    """Credentials without a key, for which IAM signs."""

    def __init__(self, credentials: Credentials, request: transport.Request) -> None:
        self._email = _find_email(credentials, request)
        self._signer = iam.Signer(request, credentials, self._email)  # type: ignore[no-untyped-call]

    @property
    def signer_email(self) -> str:
        return self._email

    @property
    def signer(self) -> iam.Signer:
        return self._signer

    def sign_bytes(self, message: bytes) -> bytes:
        signature: bytes = self._signer.sign(message)
        return signature


def _find_email(credentials: Credentials, request: transport.Request) -> str:
    """Raises StoreUnavailable for credentials of a person, and what the metadata server's client does."""
    email: str | None = getattr(credentials, "service_account_email", None)
    if email == "default":  # of the metadata server, which says the name along with the first token
        credentials.refresh(request)  # type: ignore[no-untyped-call]
        email = getattr(credentials, "service_account_email", None)
    if not email:
        raise StoreUnavailable(
            "Nobody signs links: the application default credentials are not a service account's; use Workload "
            "Identity, log in with --impersonate-service-account, or set FIREBASE_CREDENTIALS."
        )
    return email


def read_expiry(url: str) -> float:
    """The Unix time at which a V4 signed URL ends, by its own X-Goog-Date and X-Goog-Expires."""
    query = parse_qs(urlsplit(url).query)
    signed_at = datetime.strptime(query["X-Goog-Date"][0], _DATE).replace(tzinfo=UTC)
    return signed_at.timestamp() + int(query["X-Goog-Expires"][0])
