from __future__ import annotations

import base64
import json
import logging
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth.credentials import AnonymousCredentials
from google.oauth2 import service_account

from serve_app.errors import ConfigurationError
from serve_app.google_clients import EMULATOR_VARIABLES, STORAGE_CONNECTIONS, find_credentials, make_clients
from serve_app.settings import Settings
from serve_app.settings_sections import GoogleSettings

SECRET = "c2VjcmV0LW1hdGVyaWFs"


@pytest.fixture(autouse=True)
def _no_google_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*EMULATOR_VARIABLES, "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT", "PROJECT_ID", "PAWFECT_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)
    # Application default credentials are looked for in this file alone.
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent/key.json")


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in EMULATOR_VARIABLES:
        monkeypatch.setenv(name, "http://127.0.0.1:1" if name.startswith("STORAGE") else "127.0.0.1:1")


@pytest.fixture(scope="module")
def pem() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def make_key(pem: str, **changes: Any) -> dict[str, Any]:
    key = {
        "type": "service_account",
        "project_id": "from-the-key",
        "private_key": pem,
        "client_email": "pawfect@from-the-key.iam.gserviceaccount.com",
        "token_uri": "https://oauth2.googleapis.com/token",
        **changes,
    }
    return {name: value for name, value in key.items() if value is not None}


def encode(key: Any) -> str:
    return base64.encodebytes(json.dumps(key).encode()).decode()


def make_settings(credentials: str | None = None, **given: Any) -> Settings:
    return Settings(env="gcp", firebase_credentials=credentials, **given)


async def test_a_key_gives_the_credentials_and_the_project(pem: str) -> None:
    clients = make_clients(make_settings(encode(make_key(pem))))
    assert (clients.project, clients.bucket) == ("from-the-key", "from-the-key.appspot.com")
    used = clients.storage._credentials
    assert isinstance(used, service_account.Credentials)
    assert used.service_account_email == "pawfect@from-the-key.iam.gserviceaccount.com"
    assert clients.topic("t") == "projects/from-the-key/topics/t"
    assert clients.subscription("s") == "projects/from-the-key/subscriptions/s"
    await clients.close()


async def test_the_settings_go_before_the_key(pem: str) -> None:
    google = GoogleSettings(bucket="photos", database="other")
    clients = make_clients(make_settings(encode(make_key(pem)), project_id="mine", google=google))
    assert (clients.project, clients.bucket, clients.storage.project) == ("mine", "photos", "mine")
    assert clients.firestore._database == "other"
    await clients.close()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (SECRET + "!", "must be base64"),
        (base64.b64encode(b"secret-material").decode(), "must be base64 of a service-account key in JSON"),
        (base64.b64encode(b'{"private_key": "secret-material"').decode(), "must be base64"),
        (base64.b64encode(b"[" * 100_000).decode(), "must be base64"),
        (encode(["secret-material"]), "is not a service-account key."),
        (encode({"private_key": "secret-material"}), "it lacks type, project_id, client_email, token_uri"),
        (encode(make_key("secret-material", project_id=None)), "it lacks project_id"),
        (encode(make_key("secret-material", client_email=7)), "it lacks client_email"),
        (encode(make_key("secret-material", type="authorized_user")), "its type must be service_account"),
        (encode(make_key("secret-material")), "private_key that cannot be read"),
        (encode(make_key("-----BEGIN PRIVATE KEY-----\nsecret-material\n")), "private_key that cannot be read"),
    ],
)
def test_a_broken_key_is_explained_and_never_shown(value: str, told: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigurationError, match=told) as caught:
        make_clients(make_settings(value))
    logging.getLogger("test").error("cannot start", exc_info=caught.value)
    shown = caplog.text + repr(caught.value) + "".join(traceback.format_exception(caught.value))
    assert "cannot start" in shown
    assert "secret-material" not in shown
    assert value.strip() not in shown


def test_without_any_credentials_the_ways_to_get_some_are_named() -> None:
    with pytest.raises(ConfigurationError, match="Workload Identity"):
        make_clients(make_settings(project_id="mine"))
    with pytest.raises(ConfigurationError, match="FIREBASE_CREDENTIALS"):
        make_clients(make_settings("", project_id="mine"))


async def test_application_default_credentials_are_found(
    pem: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key.json"
    path.write_text(json.dumps(make_key(pem)))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    clients = make_clients(make_settings())
    assert clients.project == "from-the-key"
    await clients.close()


@pytest.mark.usefixtures("emulated")
async def test_emulators_are_sent_no_credentials(pem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clients = make_clients(make_settings(encode(make_key(pem)), project_id="demo"))
    assert isinstance(clients.storage._credentials, AnonymousCredentials)
    assert isinstance(clients.firestore._credentials, AnonymousCredentials)
    await clients.close()
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "from-the-environment")
    assert find_credentials(make_settings())[1] == "from-the-environment"


@pytest.mark.usefixtures("emulated")
def test_a_project_is_needed() -> None:
    with pytest.raises(ConfigurationError, match="PROJECT_ID must name"):
        make_clients(make_settings())


@pytest.mark.parametrize("forgotten", EMULATOR_VARIABLES)
@pytest.mark.usefixtures("emulated")
def test_a_forgotten_emulator_does_not_mean_the_real_service(forgotten: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(forgotten)
    with pytest.raises(ConfigurationError, match=f"then {forgotten} must be set as well"):
        make_clients(make_settings(project_id="demo"))


@pytest.mark.usefixtures("emulated")
async def test_threads_share_one_session_with_a_connection_each() -> None:
    clients = make_clients(make_settings(project_id="demo"))
    with ThreadPoolExecutor(STORAGE_CONNECTIONS) as threads:
        sessions = {id(session) for session in threads.map(lambda _: clients.storage._http, range(100))}
    assert len(sessions) == 1
    adapter: Any = clients.storage._http.get_adapter("https://storage.googleapis.com")
    assert adapter._pool_maxsize == STORAGE_CONNECTIONS
    await clients.close()
