"""Whether the settings name everything by which a request can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from ingress.api_keys import read_rows
from ingress.loopback import is_loopback
from serve_app.errors import ConfigurationError
from serve_app.settings import Settings
from serve_app.settings_sections import GoogleSettings

EMULATOR_VARIABLE = "PUBSUB_EMULATOR_HOST"
"""Set where Pub/Sub is its emulator, whose pushes bear no token."""


def check_trust(settings: Settings, environment: Mapping[str, str]) -> None:
    """Raises ConfigurationError for a file of API keys that cannot be used, and for ENV=gcp with settings by which a
    token could not be verified."""
    if settings.callers.keys_file is not None:
        read_rows(settings.callers.keys_file.expanduser())
    if settings.env == "gcp":
        _check_google(settings.google, environment)


def _check_google(google: GoogleSettings, environment: Mapping[str, str]) -> None:
    needed = {
        "PAWFECT_GOOGLE__PUSH_AUDIENCE": google.push_audience,
        "PAWFECT_GOOGLE__PUSH_ACCOUNT": google.push_account,
    }
    missing = [name for name, value in needed.items() if not value]
    is_emulated = bool(environment.get(EMULATOR_VARIABLE)) and len(missing) == len(needed)
    if missing and not is_emulated:
        raise ConfigurationError(f"ENV=gcp verifies every push; {' and '.join(missing)} must be set for that.")
    if google.allowed_callers and not google.caller_audience:
        raise ConfigurationError("PAWFECT_GOOGLE__CALLER_AUDIENCE must be set where there are allowed callers.")
    url = urlsplit(google.certificates_url)
    if url.scheme != "https" and not (url.scheme == "http" and is_loopback(url.hostname)):
        raise ConfigurationError("PAWFECT_GOOGLE__CERTIFICATES_URL must be an https address: it decides whom we trust.")
