"""Who sent a request. Trust lives in the types that come out of here: a `VerifiedPush` is the only thing that the push
route can submit, and the session routes cannot be called without a `VerifiedCaller`. Nothing else makes either.

A verifier sees a connection, which has headers and no body: nothing of the body is read before the sender is known.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection, Request

from ingress.keys import KeySet
from ingress.push import Push, open_envelope
from ingress.tokens import Claims, check_claims, open_token, read_bearer, read_key_id
from serve_app.clock import Clock
from serve_app.errors import ConfigurationError, Forbidden, Unauthenticated
from serve_app.settings import GoogleSettings, Settings

log = logging.getLogger(__name__)

EMULATOR_VARIABLE = "PUBSUB_EMULATOR_HOST"
"""Set where Pub/Sub is its emulator, whose pushes bear no token."""

TOLD: dict[type[Unauthenticated] | type[Forbidden], str] = {
    Unauthenticated: "This needs a valid Google identity token, as the bearer token of one Authorization header.",
    Forbidden: "The sender is not allowed to do this.",
}
"""All that a stranger learns; the reason is in our log."""


@dataclass(frozen=True, slots=True)
class VerifiedSender:
    """The push subscription's account."""

    email: str


@dataclass(frozen=True, slots=True)
class VerifiedPush:
    """A delivery, and the sender that vouches for it."""

    sender: VerifiedSender
    push: Push


@dataclass(frozen=True, slots=True)
class VerifiedCaller:
    """An internal caller who may use the session routes."""

    email: str


class Trust(Protocol):
    """Both raise Unauthenticated, Forbidden, or KeysUnavailable when it cannot be told."""

    async def verify_sender(self, connection: HTTPConnection) -> VerifiedSender: ...

    async def verify_caller(self, connection: HTTPConnection) -> VerifiedCaller: ...


class LocalTrust:
    """ENV=local: whoever sits at this machine may do everything, and nobody else anything."""

    async def verify_sender(self, connection: HTTPConnection) -> VerifiedSender:
        _require_loopback(connection)
        return VerifiedSender("local")

    async def verify_caller(self, connection: HTTPConnection) -> VerifiedCaller:
        _require_loopback(connection)
        return VerifiedCaller("local")


class GoogleTokens:
    """Identity tokens that Google signed: for pushes of the one push account, for calls of the allowed callers."""

    def __init__(self, settings: GoogleSettings, keys: KeySet, clock: Clock) -> None:
        self._settings = settings
        self._keys = keys
        self._clock = clock

    async def verify_sender(self, connection: HTTPConnection) -> VerifiedSender:
        claims = await self._verify(connection, self._settings.push_audience)
        if claims.email != self._settings.push_account:
            raise Forbidden(f"The token is of {claims.email}, which is not the push account.")
        return VerifiedSender(claims.email)

    async def verify_caller(self, connection: HTTPConnection) -> VerifiedCaller:
        if not self._settings.allowed_callers:
            raise Forbidden("PAWFECT_GOOGLE__ALLOWED_CALLERS is empty: nobody may use the session routes.")
        claims = await self._verify(connection, self._settings.caller_audience)
        if claims.email not in self._settings.allowed_callers:
            raise Forbidden(f"The token is of {claims.email}, which is not an allowed caller.")
        return VerifiedCaller(claims.email)

    async def _verify(self, connection: HTTPConnection, audience: str) -> Claims:
        token = read_bearer(connection)
        key = await self._keys.find(read_key_id(token))
        if key is None:
            raise Unauthenticated("The token names a key that is not one of Google's.")
        claims = open_token(token, key)
        check_claims(claims, audience, self._clock.now(), self._settings.clock_skew_s)
        return claims


class UnsignedPushes:
    """ENV=gcp on Pub/Sub's emulator: it signs no pushes, so all are let in. Calls still need their token."""

    def __init__(self, tokens: GoogleTokens) -> None:
        self._tokens = tokens

    async def verify_sender(self, connection: HTTPConnection) -> VerifiedSender:  # noqa: ARG002
        return VerifiedSender("emulator")

    async def verify_caller(self, connection: HTTPConnection) -> VerifiedCaller:
        return await self._tokens.verify_caller(connection)


async def verify_push(request: Request, trust: Trust) -> VerifiedPush:
    """Raises what `trust` does, and only then reads the body; raises InvalidEnvelope."""
    with _tell_little(request):
        sender = await trust.verify_sender(request)
    return VerifiedPush(sender, open_envelope(await request.body()))


async def verify_caller(connection: HTTPConnection, trust: Trust) -> VerifiedCaller:
    """Raises what `trust` does."""
    with _tell_little(connection):
        return await trust.verify_caller(connection)


def choose_trust(settings: Settings, clock: Clock, environment: Mapping[str, str]) -> Trust:
    """The verifier of the configured environment. Raises what `check_trust` does."""
    check_trust(settings, environment)
    if settings.env == "local":
        return LocalTrust()
    google = settings.google
    tokens = GoogleTokens(google, KeySet(google.certificates_url, google.timeout_s, clock), clock)
    if google.push_account:
        return tokens
    log.warning(
        "UNSIGNED PUSHES ARE LET IN: %s is set and no push account is configured. Whoever reaches this port can have "
        "photos edited. Never run it so where strangers can reach it.",
        EMULATOR_VARIABLE,
    )
    return UnsignedPushes(tokens)


def check_trust(settings: Settings, environment: Mapping[str, str]) -> None:
    """Raises ConfigurationError for ENV=gcp with settings by which a token could not be verified."""
    if settings.env == "local":
        return
    google = settings.google
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
    if url.scheme != "https" and not (url.scheme == "http" and _is_loopback(url.hostname)):
        raise ConfigurationError("PAWFECT_GOOGLE__CERTIFICATES_URL must be an https address: it decides whom we trust.")


@contextmanager
def _tell_little(connection: HTTPConnection) -> Iterator[None]:
    try:
        yield
    except (Unauthenticated, Forbidden) as error:
        log.warning("refused", extra={"path": connection.url.path, "reason": error.message})
        raise type(error)(TOLD[type(error)]) from None


def _require_loopback(connection: HTTPConnection) -> None:
    """The peer is this machine, and no page of a stranger in its browser: that one names itself as the origin, or, by a
    name of its own that leads here, as the host."""
    hosts = [connection.client.host if connection.client else None]
    if host := connection.headers.get("host"):
        hosts.append(urlsplit(f"//{host}").hostname)
    if origin := connection.headers.get("origin"):
        hosts.append(urlsplit(origin).hostname)
    if not all(_is_loopback(host) for host in hosts):
        raise Forbidden("ENV=local answers the loopback address only.")


def _is_loopback(host: str | None) -> bool:
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return host == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
