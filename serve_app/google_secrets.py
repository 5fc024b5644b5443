"""Secrets of Secret Manager, read by its REST interface: one call at the start of a command needs no client library."""

from __future__ import annotations

import base64
import re

from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import AuthorizedSession
from requests import RequestException

from serve_app.errors import ConfigurationError, StoreUnavailable
from serve_app.google_clients import find_credentials
from serve_app.settings import Settings

ENDPOINT = "https://secretmanager.googleapis.com"
TIMEOUT_S = 30.0
_NAME = re.compile(r"projects/[^/\s]+/secrets/[^/\s]+/versions/[^/\s]+")
_PERMANENT = {
    400: "that version is disabled or destroyed, or the name is no version's",
    401: "the credentials are not accepted",
    403: "this service account may not read it; give it roles/secretmanager.secretAccessor on the secret",
    404: "there is no such secret, or it has no such version",
}


def read_secret(name: str, settings: Settings) -> str:
    """The text of `projects/PROJECT/secrets/SECRET/versions/VERSION`, without white space around it.

    Raises ConfigurationError for what no retry mends, StoreUnavailable for the rest. No message carries the text.
    Source: https://cloud.google.com/secret-manager/docs/reference/rest/v1/projects.secrets.versions/access
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"'{name}' is no secret; give projects/PROJECT/secrets/SECRET/versions/VERSION.")
    credentials, _ = find_credentials(settings)
    try:
        with AuthorizedSession(credentials) as session:  # type: ignore[no-untyped-call]
            response = session.get(f"{ENDPOINT}/v1/{name}:access", timeout=TIMEOUT_S)
    except (RequestException, GoogleAuthError) as error:
        raise StoreUnavailable(f"Secret Manager could not be asked for {name}: {error}") from error
    if response.status_code in _PERMANENT:
        raise ConfigurationError(f"Secret Manager does not give us {name}: {_PERMANENT[response.status_code]}.")
    if not response.ok:
        raise StoreUnavailable(f"Secret Manager answered HTTP {response.status_code} for {name}.")
    try:
        text = base64.b64decode(response.json()["payload"]["data"], validate=True).decode().strip()
    except (ValueError, KeyError, TypeError):
        # `from None`: such an exception carries the answer.
        raise StoreUnavailable(f"Secret Manager's answer for {name} is no secret.") from None
    if not text:
        raise ConfigurationError(f"The secret {name} is empty.")
    return text
