"""Secret Manager's REST interface, and Google's token endpoint before it, spoken by a server of this machine."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from serve_app import google_secrets
from serve_app.errors import ConfigurationError, StoreUnavailable
from serve_app.google_clients import EMULATOR_VARIABLES
from serve_app.google_secrets import read_secret
from serve_app.settings import Settings

NAME = "projects/p/secrets/pawfect-hf-token/versions/latest"
SECRET = "hf_thetoken"


class Google:
    """`status` and `body` are what Secret Manager answers."""

    def __init__(self) -> None:
        self.status, self.body = 200, wrap(SECRET.encode() + b"\n")
        self.asked: list[tuple[str, str | None]] = []


def wrap(content: bytes) -> bytes:
    return json.dumps({"name": NAME, "payload": {"data": base64.b64encode(content).decode()}}).encode()


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[Google]:
    here = Google()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send(200, json.dumps({"access_token": "from-the-key", "expires_in": 3600}).encode())

        def do_GET(self) -> None:
            here.asked.append((self.path, self.headers["Authorization"]))
            self.send(here.status, here.body)

        def send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(google_secrets, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield here
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def pem() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


@pytest.fixture
def settings(google: Google, pem: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in EMULATOR_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    key = {
        "type": "service_account",
        "project_id": "p",
        "private_key": pem,
        "client_email": "pawfect@p.iam.gserviceaccount.com",
        "token_uri": f"{google_secrets.ENDPOINT}/token",
    }
    return Settings(firebase_credentials=base64.b64encode(json.dumps(key).encode()).decode())


def test_a_secret_is_read_with_the_accounts_token(google: Google, settings: Settings) -> None:
    assert read_secret(NAME, settings) == SECRET
    assert google.asked == [(f"/v1/{NAME}:access", "Bearer from-the-key")]


@pytest.mark.parametrize(
    ("status", "said"),
    [(403, "roles/secretmanager.secretAccessor"), (404, "no such secret"), (400, "disabled"), (401, "not accepted")],
)
def test_what_no_retry_mends_is_said(google: Google, settings: Settings, status: int, said: str) -> None:
    google.status = status
    with pytest.raises(ConfigurationError, match=said):
        read_secret(NAME, settings)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_outage_may_pass(google: Google, settings: Settings, status: int) -> None:
    google.status = status
    with pytest.raises(StoreUnavailable, match=f"answered HTTP {status}"):
        read_secret(NAME, settings)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"payload": {"data": "%%%"}}', wrap(b"\xff\xfe")])
def test_an_answer_that_is_no_secret_is_told_without_it(google: Google, settings: Settings, body: bytes) -> None:
    google.body = body
    with pytest.raises(StoreUnavailable, match="is no secret") as caught:
        read_secret(NAME, settings)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_an_empty_secret_is_said(google: Google, settings: Settings) -> None:
    google.body = wrap(b"\n")
    with pytest.raises(ConfigurationError, match="is empty"):
        read_secret(NAME, settings)


def test_a_service_out_of_reach_may_pass(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(google_secrets, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StoreUnavailable, match="could not be asked"):
        read_secret(NAME, settings)


@pytest.mark.parametrize("name", ["pawfect-hf-token", "projects/p/secrets/s", "projects/p/secrets/s/versions/1/x", ""])
def test_only_whole_names_are_taken(google: Google, settings: Settings, name: str) -> None:
    with pytest.raises(ConfigurationError, match="is no secret; give projects/"):
        read_secret(name, settings)
    assert google.asked == []
