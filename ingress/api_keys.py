"""API keys: 256 random bits each, of which only the sha256 is kept, in a file that may change while we run.

A fast hash is the right one here. A slow one protects what people choose and others can guess; nobody guesses 256
random bits, and a slow hash would let strangers spend our time. Two rows of one name are two keys of one caller: that
is how a key is replaced without a gap.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from collections import Counter
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.requests import HTTPConnection

from ingress.allowance import Allowance
from ingress.problems import describe_validation
from serve_app.clock import Clock
from serve_app.errors import ConfigurationError, Unauthenticated
from serve_app.settings_sections import CallerSettings, UserPattern

log = logging.getLogger(__name__)

PREFIX = "pk_"
"""By which a key is known, here and by scanners that look for secrets where none should be."""
KEY_BYTES = 32
MAX_FILE_BYTES = 2**20
"""A row has about 200 bytes."""

_SHAPE = re.compile(PREFIX + r"[A-Za-z0-9_-]{43}")  # 32 bytes in base64url

Signature = tuple[int, int, int]
"""Of a file's content, as far as can be told without reading: time of change in ns, size in bytes, inode."""


class KeyRow(BaseModel):
    """One key of one caller. `users` are patterns of the user ids whose sessions it may touch; none, unless given.
    Limits that are left out are as configured. `expires_at` is a time with its zone (RFC 3339)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    users: tuple[UserPattern, ...] = ()
    requests_per_minute: int | None = Field(None, ge=1)
    concurrent_jobs: int | None = Field(None, ge=1)
    expires_at: AwareDatetime | None = None


_ROWS: TypeAdapter[tuple[KeyRow, ...]] = TypeAdapter(tuple[KeyRow, ...])


class ApiKeys:
    """The keys of the file that the settings name, read again when it changes. A change that cannot be used is logged,
    and the rows before it stay in force. Raises ConfigurationError when there are none to begin with."""

    def __init__(self, settings: CallerSettings, clock: Clock) -> None:
        if settings.keys_file is None:
            raise ConfigurationError("PAWFECT_CALLERS__KEYS_FILE must be set for API keys.")
        self._path = settings.keys_file.expanduser()
        self._settings = settings
        self._clock = clock
        self._signature = _sign(self._path)
        self._rows = read_rows(self._path)

    def find(self, key: str) -> KeyRow:
        """Raises Unauthenticated for a key that is none of ours, or no longer."""
        if not _SHAPE.fullmatch(key):
            raise Unauthenticated("The API key does not have the form of one.")
        self._refresh()
        digest = hash_key(key)
        # Every row is looked at, and each in constant time: how long it takes tells nothing about a hash.
        matches = [row for row in self._rows if hmac.compare_digest(row.sha256, digest)]
        if not matches:
            raise Unauthenticated("The API key is none of ours.")
        row = matches[0]
        if row.expires_at is not None and self._clock.now() >= row.expires_at.timestamp():
            raise Unauthenticated(f"The API key of {row.name} has expired.")
        return row

    def get_allowance(self, row: KeyRow) -> Allowance:
        return Allowance(
            users=row.users,
            requests_per_minute=row.requests_per_minute or self._settings.requests_per_minute,
            concurrent_jobs=row.concurrent_jobs or self._settings.concurrent_jobs,
        )

    def _refresh(self) -> None:
        signature = _sign(self._path)
        if signature == self._signature:
            return
        self._signature = signature  # whatever comes of it: one broken file is read, and complained of, once
        try:
            self._rows = read_rows(self._path)
        except ConfigurationError as error:
            log.warning("the changed API keys cannot be used; those before stay in force: %s", error.message)
        else:
            log.info("the API keys are read again", extra={"rows": len(self._rows)})


def brings_key(connection: HTTPConnection) -> bool:
    """Whether a request means to be let in by an API key; no token of Google's begins like one."""
    return any(f" {PREFIX}" in value for value in connection.headers.getlist("authorization"))


def draw_key() -> str:
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def hash_key(key: str) -> str:
    """sha256 in hex, as a row keeps it."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_rows(path: Path) -> tuple[KeyRow, ...]:
    """Raises ConfigurationError, naming what is wrong; no value of the file is shown."""
    name = f"PAWFECT_CALLERS__KEYS_FILE ({path})"
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{name} cannot be read: {error.strerror}.") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigurationError(f"{name} has more than {MAX_FILE_BYTES} bytes.")
    try:
        rows = _ROWS.validate_json(data)
    except ValidationError as error:
        raise ConfigurationError(
            f'{name} is not a JSON list of {{"name", "sha256", …}}: {describe_validation(error.errors())}'
        ) from None
    if repeated := [row for row, number in Counter(row.sha256 for row in rows).items() if number > 1]:
        names = ", ".join(row.name for row in rows if row.sha256 in repeated)
        raise ConfigurationError(f"{name} has one key in several rows: {names}.")
    return rows


def _sign(path: Path) -> Signature | None:
    """None when there is no such file. A mounted secret is a link, which leads to another file when it changes."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
