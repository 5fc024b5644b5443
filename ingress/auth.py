"""Who sent a request. Trust lives in the types that come out of here: a `VerifiedPush` is the only thing that the push
routes can submit, and no route for callers runs without a `VerifiedCaller`; headshots may be opened to an
`AnonymousCaller`. Nothing else makes any of them.

A verifier sees a connection, which has headers and no body: nothing of the body is read before the sender is known.

Who repeats a request that was let in, by accident or on purpose, gains nothing here: a push's delivery id
(`serve_app.jobs.admission`) and a caller's idempotency key (`serve_app.jobs.submission`) lead to the job there is.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import HTTPConnection, Request

from ingress.allowance import EVERYBODY, UNBOUNDED, Allowance
from ingress.api_keys import ApiKeys, brings_key
from ingress.keys import KeySet
from ingress.loopback import require_loopback
from ingress.push import Push, open_envelope
from ingress.tokens import Claims, check_claims, check_shape, open_token, read_bearer, read_key_id
from ingress.trust import EMULATOR_VARIABLE, check_trust
from serve_app.clock import Clock
from serve_app.errors import Forbidden, Unauthenticated
from serve_app.jobs.model import ANONYMOUS
from serve_app.settings import Settings
from serve_app.settings_sections import CallerSettings, GoogleSettings

log = logging.getLogger(__name__)

HEADSHOT_PUSH_PATH = "/headshot/push"
"""Where the second push subscription delivers, whose tokens may have an audience of their own."""

TOLD: dict[type[Unauthenticated] | type[Forbidden], str] = {
    Unauthenticated: "This needs a valid API key or Google identity token, as the bearer token of one "
    "Authorization header.",
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
    """An internal caller, under the name that its jobs are kept by: an e-mail, `key:` and the name of an API key's row,
    or `local`."""

    id: str
    allowance: Allowance = UNBOUNDED


@dataclass(frozen=True, slots=True)
class AnonymousCaller:
    """Somebody who brought no token, where that is allowed; all such share one allowance."""

    allowance: Allowance
    id: str = ANONYMOUS


Visitor = VerifiedCaller | AnonymousCaller


class Trust(Protocol):
    """Both raise Unauthenticated, Forbidden, or KeysUnavailable when it cannot be told."""

    async def verify_sender(self, connection: HTTPConnection) -> VerifiedSender: ...

    async def verify_caller(self, connection: HTTPConnection) -> VerifiedCaller: ...


class LocalTrust:
    """ENV=local: whoever sits at this machine may do everything, and nobody else anything. In a browser on it that
    holds for pages on it, and for those of `origins`."""

    def __init__(self, origins: Collection[str] = ()) -> None:
        self._origins = origins

    async def verify_sender(self, connection: HTTPConnection) -> VerifiedSender:
        require_loopback(connection, self._origins)
        return VerifiedSender("local")

    async def verify_caller(self, connection: HTTPConnection) -> VerifiedCaller:
        require_loopback(connection, self._origins)
        return VerifiedCaller("local")


class GoogleTokens:
    """Identity tokens that Google signed: for pushes of the one push account, for calls of the allowed callers."""

    def __init__(
        self, settings: GoogleSettings, keys: KeySet, clock: Clock, callers: CallerSettings = CallerSettings()
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._clock = clock
        self._callers = callers

    async def verify_sender(self, connection: HTTPConnection) -> VerifiedSender:
        settings = self._settings
        is_headshots = connection.url.path == HEADSHOT_PUSH_PATH and settings.headshot_push_audience
        audience = settings.headshot_push_audience if is_headshots else settings.push_audience
        claims = await self._verify(connection, audience)
        if claims.email != self._settings.push_account:
            raise Forbidden(f"The token is of {claims.email}, which is not the push account.")
        return VerifiedSender(claims.email)

    async def verify_caller(self, connection: HTTPConnection) -> VerifiedCaller:
        if not self._settings.allowed_callers:
            if self._callers.keys_file is not None:
                raise Unauthenticated("No API key came, and no Google caller is allowed.")
            raise Forbidden("PAWFECT_GOOGLE__ALLOWED_CALLERS is empty and there are no API keys: nobody may call.")
        claims = await self._verify(connection, self._settings.caller_audience)
        if claims.email not in self._settings.allowed_callers:
            raise Forbidden(f"The token is of {claims.email}, which is not an allowed caller.")
        users = self._callers.users.get(claims.email, EVERYBODY)
        return VerifiedCaller(
            claims.email, Allowance(users, self._callers.requests_per_minute, self._callers.concurrent_jobs)
        )

    async def _verify(self, connection: HTTPConnection, audience: str) -> Claims:
        token = read_bearer(connection)
        check_shape(token)
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


class KeyedCalls:
    """API keys, wherever a file of them is configured. A call that brings none, and every push, is for `others`."""

    def __init__(self, keys: ApiKeys, others: Trust) -> None:
        self._keys = keys
        self._others = others

    async def verify_sender(self, connection: HTTPConnection) -> VerifiedSender:
        return await self._others.verify_sender(connection)

    async def verify_caller(self, connection: HTTPConnection) -> VerifiedCaller:
        if not brings_key(connection):
            return await self._others.verify_caller(connection)
        row = self._keys.find(read_bearer(connection))
        return VerifiedCaller(f"key:{row.name}", self._keys.get_allowance(row))


async def verify_push(request: Request, trust: Trust) -> VerifiedPush:
    """Raises what `trust` does, and only then reads the body; raises InvalidEnvelope."""
    with _tell_little(request):
        sender = await trust.verify_sender(request)
    return VerifiedPush(sender, open_envelope(await request.body()))


async def verify_caller(connection: HTTPConnection, trust: Trust) -> VerifiedCaller:
    """Raises what `trust` does."""
    with _tell_little(connection):
        return await trust.verify_caller(connection)


async def verify_visitor(connection: HTTPConnection, trust: Trust, settings: Settings) -> Visitor:
    """A caller, or, where the settings let such in and no token came at all, an anonymous one. Raises what `trust`
    does: a token that is wrong makes nobody anonymous. ENV=local needs no tokens, and lets nobody in from elsewhere."""
    if not settings.headshots.anonymous or settings.env == "local" or "authorization" in connection.headers:
        return await verify_caller(connection, trust)
    callers = settings.callers
    return AnonymousCaller(Allowance((), callers.requests_per_minute, callers.concurrent_jobs))


def choose_trust(settings: Settings, clock: Clock, environment: Mapping[str, str]) -> Trust:
    """The verifier of the configured environment. Raises what `check_trust` does."""
    check_trust(settings, environment)
    trust = LocalTrust(settings.allowed_origins) if settings.env == "local" else _trust_google(settings, clock)
    return trust if settings.callers.keys_file is None else KeyedCalls(ApiKeys(settings.callers, clock), trust)


def _trust_google(settings: Settings, clock: Clock) -> Trust:
    google = settings.google
    tokens = GoogleTokens(google, KeySet(google.certificates_url, google.timeout_s, clock), clock, settings.callers)
    if google.push_account:
        return tokens
    log.warning(
        "UNSIGNED PUSHES ARE LET IN: %s is set and no push account is configured. Whoever reaches this port can have "
        "photos edited. Never run it so where strangers can reach it.",
        EMULATOR_VARIABLE,
    )
    return UnsignedPushes(tokens)


@contextmanager
def _tell_little(connection: HTTPConnection) -> Iterator[None]:
    try:
        yield
    except (Unauthenticated, Forbidden) as error:
        log.warning("refused", extra={"path": connection.url.path, "reason": error.message})
        raise type(error)(TOLD[type(error)]) from None
