"""V4 signed URLs of Cloud Storage: signed by a real key, here or behind a server that stands in for IAM and for the
metadata server, and verified by what Google publishes on how a signature is made."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pytest
import requests
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from google.auth import compute_engine
from google.auth.credentials import Credentials
from google.oauth2 import credentials as user_credentials
from google.oauth2 import service_account
from requests.adapters import HTTPAdapter

from serve_app.errors import StoreUnavailable
from serve_app.google_clients import make_storage_client
from serve_app.photos.gcs_links import IAM_LIFETIME_S, GcsLinks
from serve_app.settings_headshots import LinkSettings
from serve_app.settings_sections import GoogleSettings
from tests.tokens import make_key

ACCOUNT = "pawfect@demo.iam.gserviceaccount.com"
BUCKETS = {"headshots/originals/": "customer-photos", "headshots/outputs/": "headshot-files"}
DOWNLOAD = ("headshots/outputs/job-1/outputs/print.png", "image/png", "print.png")
ACCOUNTS = "/computeMetadata/v1/instance/service-accounts"
SIGN = f"POST /v1/projects/-/serviceAccounts/{ACCOUNT}:signBlob"


@dataclass
class Google:
    """IAM and the metadata server in one. `answers` are given to the next calls of signBlob instead of a signature:
    a status, a body, or None for silence until the end of the test."""

    address: str = ""
    answers: deque[int | bytes | None] = field(default_factory=deque)
    requests: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    token_lives_s: int = 3600
    closing: threading.Event = field(default_factory=threading.Event)


class _Handler(BaseHTTPRequestHandler):
    google: Google

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.google.requests.append(f"GET {self.path}")
        assert self.headers["Metadata-Flavor"] == "Google"
        if self.path.startswith(f"{ACCOUNTS}/default/token"):
            self.google.tokens.append(f"token-{len(self.google.tokens)}")
            self._answer(
                200,
                {
                    "access_token": self.google.tokens[-1],
                    "expires_in": self.google.token_lives_s,
                    "token_type": "Bearer",
                },
            )
        elif self.path.startswith(tuple(f"{ACCOUNTS}/{name}/?" for name in ("default", ACCOUNT))):
            self._answer(200, {"email": ACCOUNT, "aliases": ["default"], "scopes": []})
        else:
            self._answer(404, {})

    def do_POST(self) -> None:
        self.google.requests.append(f"POST {urlsplit(self.path).path}")
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = self.google.answers.popleft() if self.google.answers else 200
        if answer is None:
            self.google.closing.wait()
        elif isinstance(answer, bytes):
            self._send(200, answer)
        elif answer != 200:
            self._answer(answer, {"error": {"code": answer, "message": f"secret text about {ACCOUNT}"}})
        else:
            assert self.headers["Authorization"] == f"Bearer {self.google.tokens[-1]}"
            message = base64.b64decode(body["payload"])
            signature = make_key("google").sign(message, padding.PKCS1v15(), hashes.SHA256())
            self._answer(200, {"keyId": "1", "signedBlob": base64.b64encode(signature).decode()})

    def _answer(self, status: int, content: Any) -> None:
        self._send(status, json.dumps(content).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Clients that have given up are part of the tests."""


class Elsewhere(HTTPAdapter):
    """What is meant for Google goes to the stand-in; anything else goes nowhere."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        assert request.url is not None
        parts = urlsplit(request.url)
        assert parts.hostname in ("iamcredentials.googleapis.com", "metadata.google.internal"), request.url
        request.url = self._address + request.url.removeprefix(f"{parts.scheme}://{parts.netloc}")
        return super().send(request, *args, **kwargs)


@pytest.fixture(autouse=True)
def _no_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)


@pytest.fixture
def google() -> Iterator[Google]:
    state = Google()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"google": state}))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        state.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def session(google: Google) -> Iterator[requests.Session]:
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, Elsewhere(google.address))
        yield session


def workload_identity() -> Credentials:
    """As `google.auth.default` makes them on GKE; asking for the universe would be one call more, by another way."""
    return compute_engine.Credentials(universe_domain="googleapis.com")


def own_key() -> Credentials:
    pem = make_key("google").private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    info = {"client_email": ACCOUNT, "private_key": pem.decode(), "token_uri": "https://oauth2.googleapis.com/token"}
    return service_account.Credentials.from_service_account_info(info)


def open_links(session: requests.Session, credentials: Credentials, timeout_s: float = 5, **links: int) -> GcsLinks:
    client = make_storage_client("demo", credentials)
    return GcsLinks(
        client, credentials, "sessions", BUCKETS, GoogleSettings(timeout_s=timeout_s), LinkSettings(**links), session
    )


def read_query(url: str) -> dict[str, str]:
    pairs = parse_qsl(urlsplit(url).query, keep_blank_values=True, strict_parsing=True)
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)


def verify(url: str, method: str, headers: dict[str, str]) -> None:
    """As Cloud Storage does: the canonical request, made of the request that came, hashed into the string to sign
    (https://cloud.google.com/storage/docs/authentication/canonical-requests). Raises InvalidSignature."""
    parts, query = urlsplit(url), read_query(url)
    signature = bytes.fromhex(query.pop("X-Goog-Signature"))
    given = {name.lower(): " ".join(value.split()) for name, value in headers.items()} | {"host": parts.netloc}
    signed = query["X-Goog-SignedHeaders"].split(";")
    assert signed == sorted(signed)
    canonical = "\n".join(
        [
            method,
            quote(unquote(parts.path), safe="/~"),
            "&".join(f"{quote(name, safe='~')}={quote(query[name], safe='~')}" for name in sorted(query)),
            *(f"{name}:{given.get(name, '')}" for name in signed),
            "",
            ";".join(signed),
            "UNSIGNED-PAYLOAD",
        ]
    )
    email, _, scope = query["X-Goog-Credential"].partition("/")
    assert (email, scope) == (ACCOUNT, f"{query['X-Goog-Date'][:8]}/auto/storage/goog4_request")
    text = "\n".join(["GOOG4-RSA-SHA256", query["X-Goog-Date"], scope, hashlib.sha256(canonical.encode()).hexdigest()])
    make_key("google").public_key().verify(signature, text.encode(), padding.PKCS1v15(), hashes.SHA256())


@pytest.mark.parametrize("make_credentials", [workload_identity, own_key])
async def test_a_download_is_signed_as_cloud_storage_expects(
    google: Google, session: requests.Session, make_credentials: Any
) -> None:
    links = open_links(session, make_credentials(), download_ttl_s=600)
    before = int(time.time())
    link = await links.sign_download("headshots/outputs/job-1/outputs/Rex & Co ü.png", "image/png", "Rex ü.png")
    parts, query = urlsplit(link.url), read_query(link.url)
    assert (parts.scheme, parts.netloc) == ("https", "storage.googleapis.com")
    assert parts.path == "/headshot-files/job-1/outputs/Rex%20%26%20Co%20%C3%BC.png"
    assert query["X-Goog-Expires"] == "600"
    assert query["response-content-type"] == "image/png"
    assert query["response-content-disposition"] == "inline; filename=\"Rex _.png\"; filename*=UTF-8''Rex%20%C3%BC.png"
    assert before + 600 <= link.expires_at <= time.time() + 600
    verify(link.url, "GET", {})
    for url, method in (
        (link.url, "PUT"),
        (link.url.replace("job-1", "job-2"), "GET"),
        (link.url.replace("Expires=600", "Expires=601"), "GET"),
    ):
        with pytest.raises(InvalidSignature):
            verify(url, method, {})
    assert google.requests.count(SIGN) == (1 if make_credentials is workload_identity else 0)


@pytest.mark.parametrize("make_credentials", [workload_identity, own_key])
async def test_an_upload_is_signed_with_its_type_its_size_and_once(
    google: Google, session: requests.Session, make_credentials: Any
) -> None:
    links = open_links(session, make_credentials(), upload_ttl_s=900)
    link = await links.sign_upload("headshots/originals/job-1/original/dog.heic", "image/heic", 50_000_000)
    assert link.method == "PUT"
    assert link.headers == {
        "Content-Type": "image/heic",
        "x-goog-content-length-range": "0,50000000",
        "x-goog-if-generation-match": "0",
    }
    assert urlsplit(link.url).path == "/customer-photos/job-1/original/dog.heic"
    query = read_query(link.url)
    assert query["X-Goog-SignedHeaders"] == "content-type;host;x-goog-content-length-range;x-goog-if-generation-match"
    assert time.time() + 890 < link.expires_at <= time.time() + 900
    verify(link.url, "PUT", dict(link.headers))
    for name in link.headers:
        with pytest.raises(InvalidSignature):
            verify(link.url, "PUT", {**link.headers, name: "image/png"})
        with pytest.raises(InvalidSignature):
            verify(link.url, "PUT", {other: value for other, value in link.headers.items() if other != name})


async def test_other_paths_are_in_the_sessions_bucket(session: requests.Session, google: Google) -> None:
    link = await open_links(session, own_key()).sign_download("users/u/sessions/s/edited.jpg", "image/jpeg", "a")
    assert urlsplit(link.url).path == "/sessions/users/u/sessions/s/edited.jpg"


async def test_the_account_is_asked_for_once_and_its_token_again_when_it_ends(
    google: Google, session: requests.Session
) -> None:
    links = open_links(session, workload_identity())
    for _ in range(3):
        verify((await links.sign_download(*DOWNLOAD)).url, "GET", {})
    assert (len(google.tokens), google.requests.count(SIGN)) == (1, 3)
    google.token_lives_s = 1  # within the time by which tokens are renewed early
    other = open_links(session, workload_identity())
    for _ in range(3):
        verify((await other.sign_download(*DOWNLOAD)).url, "GET", {})
    assert len(google.tokens) == 4 + 1


async def test_what_iam_signs_is_not_said_to_outlive_its_key(google: Google, session: requests.Session) -> None:
    week = 7 * 86400
    links = open_links(session, workload_identity(), download_ttl_s=week)
    link = await links.sign_download(*DOWNLOAD)
    assert read_query(link.url)["X-Goog-Expires"] == str(IAM_LIFETIME_S)
    assert link.expires_at <= time.time() + IAM_LIFETIME_S
    link = await open_links(session, own_key(), download_ttl_s=week).sign_download(*DOWNLOAD)
    assert read_query(link.url)["X-Goog-Expires"] == str(week)


async def test_a_missing_role_is_named(google: Google, session: requests.Session) -> None:
    google.answers.append(403)
    links = open_links(session, workload_identity())
    with pytest.raises(StoreUnavailable, match=r"roles/iam\.serviceAccountTokenCreator on itself") as refused:
        await links.sign_download(*DOWNLOAD)
    assert ACCOUNT not in refused.value.message
    assert "secret" not in refused.value.message
    verify((await links.sign_download(*DOWNLOAD)).url, "GET", {})


@pytest.mark.parametrize("answer", [400, 404, 429, b"not json", b"{}", b'{"signedBlob": 7}', b"[]"])
async def test_whatever_else_iam_says_is_an_outage(
    google: Google, session: requests.Session, answer: int | bytes
) -> None:
    google.answers.append(answer)
    with pytest.raises(StoreUnavailable, match="cannot be signed now") as refused:
        await open_links(session, workload_identity()).sign_upload("headshots/originals/a", "image/png", 1)
    assert ACCOUNT not in refused.value.message


async def test_a_passing_fault_is_tried_again(google: Google, session: requests.Session) -> None:
    google.answers.append(503)
    verify((await open_links(session, workload_identity()).sign_download(*DOWNLOAD)).url, "GET", {})
    assert google.requests.count(SIGN) == 2


async def test_silence_ends_in_time_for_the_caller_and_for_the_thread(
    google: Google, session: requests.Session
) -> None:
    google.answers.extend([None] * 10)
    links = open_links(session, workload_identity(), timeout_s=0.5)
    with pytest.raises(StoreUnavailable, match=r"was not signed within 0\.5 s|cannot be signed now|in time"):
        await links.sign_download(*DOWNLOAD)
    async with asyncio.timeout(10):  # no thread waits for an answer that does not come
        await asyncio.to_thread(links._threads.shutdown)
    assert google.requests.count(SIGN) == 1


async def test_a_faulty_network_is_an_outage(session: requests.Session) -> None:
    for scheme in ("http://", "https://"):
        session.mount(scheme, Elsewhere("http://127.0.0.1:1"))
    links = open_links(session, workload_identity(), timeout_s=0.5)
    with pytest.raises(StoreUnavailable):
        await links.sign_download(*DOWNLOAD)
    async with asyncio.timeout(10):
        await asyncio.to_thread(links._threads.shutdown)


async def test_a_persons_credentials_sign_nothing(google: Google, session: requests.Session) -> None:
    person = user_credentials.Credentials("token", refresh_token="r", client_id="i", client_secret="s")
    with pytest.raises(StoreUnavailable, match="not a service account's"):
        await open_links(session, person).sign_download(*DOWNLOAD)
    assert google.requests == []


@pytest.mark.parametrize("path", ["headshots/outputs/../a", "", "/a", "headshots/outputs/"])
async def test_what_is_no_path_or_type_is_not_signed(session: requests.Session, path: str) -> None:
    links = open_links(session, own_key())
    with pytest.raises(ValueError, match="not an object path"):
        await links.sign_download(path, "image/png", "a")
    with pytest.raises(ValueError, match="not a media type"):
        await links.sign_upload("a", "image/png\r\nx: y", 1)
