"""The clients of Firestore, Cloud Storage and Pub/Sub: made once per process, explicitly, with one set of credentials.

Credentials are the application default ones (on GKE: Workload Identity), or a service-account key as base64 JSON in
`FIREBASE_CREDENTIALS`. With the emulators' variables set nobody is asked and none are sent.

firebase-admin is left out on purpose: for Firestore and Cloud Storage it hands out these same clients, from an
application object that is global to the process, and what it adds (users, messaging) is not used here.

All clients may be used from any thread. Firestore's binds to the event loop that uses it first.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from dataclasses import dataclass
from typing import Any

import google.auth
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.environment_vars import PROJECT
from google.auth.exceptions import DefaultCredentialsError
from google.cloud.firestore import AsyncClient
from google.cloud.storage import Client as StorageClient
from google.oauth2 import service_account
from google.pubsub_v1 import PublisherClient, SubscriberClient
from requests.adapters import HTTPAdapter

from serve_app.errors import ConfigurationError
from serve_app.settings import Settings

SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
"""What the account may do is decided by its roles; https://cloud.google.com/compute/docs/access/service-accounts."""
EMULATOR_VARIABLES = ("FIRESTORE_EMULATOR_HOST", "PUBSUB_EMULATOR_HOST", "STORAGE_EMULATOR_HOST")
KEY_VARIABLE = "FIREBASE_CREDENTIALS"
KEY_FIELDS = ("type", "project_id", "private_key", "client_email", "token_uri")
STORAGE_CONNECTIONS = 16
"""Connections to Cloud Storage that are kept open, and threads that use them; requests' own pool ends at 10."""


@dataclass(frozen=True, slots=True)
class GoogleClients:
    credentials: Credentials
    project: str
    bucket: str
    firestore: AsyncClient
    storage: StorageClient
    publisher: PublisherClient
    subscriber: SubscriberClient

    def topic(self, name: str) -> str:
        """The full name of a topic of this project."""
        return f"projects/{self.project}/topics/{name}"

    def subscription(self, name: str) -> str:
        """The full name of a subscription of this project."""
        return f"projects/{self.project}/subscriptions/{name}"

    async def close(self) -> None:
        self.publisher.transport.close()  # type: ignore[no-untyped-call]
        self.subscriber.transport.close()  # type: ignore[no-untyped-call]
        self.storage.close()
        # The client's own close() leaves its channel open; there is none before the first call.
        api: Any = getattr(self.firestore, "_firestore_api_internal", None)
        if api is not None:
            await api.transport.close()


def make_clients(settings: Settings) -> GoogleClients:
    """Connects to nothing yet. The bucket is by default that of older Firebase projects; that of newer ones is called
    `PROJECT_ID.firebasestorage.app` and has to be set.

    Raises ConfigurationError when credentials or the project cannot be had.
    """
    credentials, project = find_project(settings)
    return GoogleClients(
        credentials=credentials,
        project=project,
        bucket=settings.google.bucket or f"{project}.appspot.com",
        firestore=AsyncClient(project=project, credentials=credentials, database=settings.google.database),
        storage=make_storage_client(project, credentials),
        publisher=PublisherClient(credentials=credentials),
        subscriber=SubscriberClient(credentials=credentials),
    )


def find_project(settings: Settings) -> tuple[Credentials, str]:
    """The credentials and the project they are used in. Raises ConfigurationError."""
    credentials, project = find_credentials(settings)
    project = settings.project_id or project
    if not project:
        raise ConfigurationError("PROJECT_ID must name the Google Cloud project; the credentials do not tell it.")
    return credentials, project


def make_storage_client(project: str, credentials: Credentials) -> StorageClient:
    # Else the client asks for the bucket's metadata from threads of its own, to decorate traces that are switched off;
    # the service account needs no such permission, and nothing bounds those calls.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    client = StorageClient(project=project, credentials=credentials)
    # The client makes its session when it is first asked for it, which two threads could do at once: ask here.
    session = client._http
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(pool_connections=1, pool_maxsize=STORAGE_CONNECTIONS))
    return client


def find_credentials(settings: Settings) -> tuple[Credentials, str | None]:
    """The credentials, and the project they belong to where they know it. Raises ConfigurationError."""
    if uses_emulators():
        return AnonymousCredentials(), os.environ.get(PROJECT)  # type: ignore[no-untyped-call]
    if key := _find_key(settings):
        return _read_key(key)
    try:
        credentials, project = google.auth.default(scopes=SCOPES)
    except DefaultCredentialsError as error:
        raise ConfigurationError(
            f"There are no application default credentials ({error.args[0]}): on GKE use Workload Identity, on your "
            "machine run `gcloud auth application-default login`, or set FIREBASE_CREDENTIALS."
        ) from error
    return credentials, project


def uses_emulators() -> bool:
    """All or none: with one of them forgotten, a trial would write into the real project."""
    given = [name for name in EMULATOR_VARIABLES if os.environ.get(name)]
    if given and len(given) < len(EMULATOR_VARIABLES):
        missing = ", ".join(name for name in EMULATOR_VARIABLES if name not in given)
        raise ConfigurationError(f"{', '.join(given)} asks for emulators, then {missing} must be set as well.")
    return bool(given)


def _find_key(settings: Settings) -> str:
    """Replicas get their settings without the key and look into their own environment."""
    given = settings.firebase_credentials
    return given.get_secret_value() if given is not None else os.environ.get(KEY_VARIABLE, "")


def _read_key(value: str) -> tuple[Credentials, str | None]:
    """No message may carry any part of the value, nor an exception that does: hence `from None`."""
    try:
        # `base64` wraps its lines at 76 characters.
        key = json.loads(base64.b64decode("".join(value.split()), validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise ConfigurationError("FIREBASE_CREDENTIALS must be base64 of a service-account key in JSON.") from None
    if not isinstance(key, dict) or (missing := [name for name in KEY_FIELDS if not isinstance(key.get(name), str)]):
        lacking = f"; it lacks {', '.join(missing)}" if isinstance(key, dict) else ""
        raise ConfigurationError(f"FIREBASE_CREDENTIALS is not a service-account key{lacking}.")
    if key["type"] != "service_account":
        raise ConfigurationError("FIREBASE_CREDENTIALS is not a service-account key; its type must be service_account.")
    try:
        credentials = service_account.Credentials.from_service_account_info(key, scopes=SCOPES)  # type: ignore[no-untyped-call]
    except Exception:  # the parser of the key has many of its own
        raise ConfigurationError("FIREBASE_CREDENTIALS has a private_key that cannot be read as PEM.") from None
    return credentials, key["project_id"]
