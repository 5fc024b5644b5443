"""Who is let in: forged and broken tokens against the whole HTTP application, and what each is refused for."""

from __future__ import annotations

import ast
import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from ingress.api import create_app
from ingress.auth import (
    TOLD,
    GoogleTokens,
    LocalTrust,
    Trust,
    UnsignedPushes,
    VerifiedCaller,
    VerifiedSender,
    choose_trust,
)
from ingress.keys import UNKNOWN_PAUSE_S, KeySet
from ingress.services import Services
from ingress.tokens import MAX_LIFETIME_S, MAX_TOKEN_BYTES
from ingress.trust import check_trust
from serve_app.clock import SystemClock
from serve_app.engines.readiness import Readiness
from serve_app.errors import CallerError, ConfigurationError, Forbidden, KeysUnavailable, Unauthenticated
from serve_app.jobs.controls import ControlsWatch
from serve_app.jobs.submission import Submitter
from serve_app.settings import Settings
from serve_app.settings_sections import GoogleSettings
from tests.engines import FakeEngine
from tests.tokens import (
    ABSENT,
    BACKEND,
    CALLER,
    KID,
    NOW,
    PUSH_ACCOUNT,
    PUSHER,
    SKEW_S,
    Account,
    HandClock,
    KeyServer,
    encode,
    seal,
    serve_keys,
    sign_hs256,
    sign_rs256,
    write_jwk,
    write_jwks,
    write_pem,
)
from tests.workbench import SESSION, Workbench, open_workbench

EDIT = "/v1/users/user/sessions/session/edit"
Headers = list[tuple[str, str]]


@pytest.fixture(scope="module")
def key_server() -> Iterator[KeyServer]:
    with serve_keys() as server:
        yield server


@pytest.fixture
def server() -> Iterator[KeyServer]:
    """One of the test's own, to count and to change."""
    with serve_keys() as server:
        yield server


@pytest.fixture
def log() -> Iterator[list[dict[str, Any]]]:
    """What is logged of those who are sent away."""
    lines: list[dict[str, Any]] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append({**record.__dict__, "text": record.getMessage()})

    logger, handler = logging.getLogger("ingress.auth"), Lines()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


class Recorder:
    """Passes everything on, and notes what was asked for."""

    def __init__(self, inner: Any, calls: list[str]) -> None:
        self._inner = inner
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        self._calls.append(name)
        return getattr(self._inner, name)


@dataclass
class Guarded:
    http: httpx.AsyncClient
    bench: Workbench
    calls: list[str] = field(default_factory=list)
    was_read: bool = False

    async def send(self, method: str, path: str, headers: Headers, body: bytes = b"") -> httpx.Response:
        async def stream() -> AsyncIterator[bytes]:
            self.was_read = True
            yield body

        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        typed = [(b"Content-Type", b"application/json"), *raw]
        return await self.http.request(method, path, headers=typed, content=stream())

    async def push(self, headers: Headers) -> httpx.Response:
        data = base64.b64encode(json.dumps({"userId": "user", "sessionId": "session"}).encode()).decode()
        return await self.send(
            "POST", "/inpaint", headers, json.dumps({"message": {"messageId": "1", "data": data}}).encode()
        )

    async def edit(self, headers: Headers) -> httpx.Response:
        return await self.send("POST", EDIT, headers, b'{"seed": 7}')

    async def expect_nothing_done(self, before: Any) -> None:
        assert self.calls == []
        assert not self.was_read
        assert (await self.bench.stores.jobs.backlog(0.0)).queued == 0
        assert await self.bench.stores.dead_letters.latest(10) == []
        assert await self.bench.backend.read(SESSION) == before


@asynccontextmanager
async def open_guarded(root: Path, trust: Trust, *, start: bool = False) -> AsyncIterator[Guarded]:
    async with open_workbench(root, {"draft": FakeEngine()}, start=start, push_wait_s=10 if start else 0.1) as bench:
        await bench.put_session()
        calls: list[str] = []

        async def assess() -> Readiness:
            return Readiness(True, "ready", None, {})

        def nudge() -> None:
            calls.append("nudge")
            bench.runner.nudge()

        controls = ControlsWatch(bench.stores.controls, SystemClock(), bench.sink)
        await controls.refresh()
        services = Services(
            settings=bench.settings,
            jobs=Recorder(bench.service, calls),
            submitter=Recorder(Submitter(bench.stores.jobs, bench.stores.photos, bench.settings, SystemClock()), calls),
            headshots=Recorder(bench.headshots, calls),
            photos=bench.stores.photos,
            links=bench.stores.links,
            dead_letters=Recorder(bench.stores.dead_letters, calls),
            readiness=assess,
            nudge=nudge,
            sink=bench.sink,
            clock=SystemClock(),
            trust=trust,
            controls=controls,
        )
        transport = httpx.ASGITransport(create_app(services), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service", timeout=30) as http:
            yield Guarded(http, bench, calls)


def trust_google(server: KeyServer, clock: HandClock | None = None, **changes: Any) -> GoogleTokens:
    google = server.settings(**changes)
    clock = clock or HandClock()
    return GoogleTokens(google, KeySet(google.certificates_url, 10, clock), clock)


def bear(token: str) -> Headers:
    return [("Authorization", f"Bearer {token}")]


def expect_refusal(response: httpx.Response, status: int) -> None:
    kind: type[Unauthenticated] | type[Forbidden] = Unauthenticated if status == 401 else Forbidden
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    body = response.json()
    assert (body["type"], body["detail"]) == (f"urn:pawfect:problem:{kind.code}", TOLD[kind])


# -- the table -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    make: Callable[[Account], str | Headers]
    reason: str
    status: int = 401


def split(account: Account) -> list[str]:
    return account.token().split(".")


def tamper(account: Account, **changes: Any) -> str:
    """Other claims under the signature of the good ones."""
    header, _, signature = split(account)
    return ".".join((header, encode(json.dumps(account.claims(**changes)).encode()), signature))


def omit(claim: str) -> Case:
    return Case(lambda account: account.token(**{claim: ABSENT}), f"{claim}: Field required.")


def respell(token: str) -> str:
    """The last letter of 256 bytes in base64url has four bits to spare."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + letters[letters.index(token[-1]) + 1]


OWN_KEY = write_jwk(KID, "attacker")
ELSEWHERE = "http://127.0.0.1:1/certs"
SIGNATURE = "The signature is not by the key that the token names."
SHAPE = "The token is not three parts of base64url."
ALG = "The token's alg is not RS256."
SCHEME = "not of the Bearer scheme"
UNKNOWN = "The token names a key that is not one of Google's."
NO_KID = "The token does not name its key."
LIFETIME = "The token's lifetime is not that of a token of Google's."
UNREADABLE = "The token cannot be read"

FORGED: dict[str, Case] = {
    "no header": Case(lambda _: [], "There are 0 Authorization headers"),
    "two headers": Case(lambda a: bear(a.token()) * 2, "There are 2 Authorization headers"),
    "a good and an empty header": Case(lambda a: [*bear(a.token()), ("Authorization", "")], "There are 2"),
    "an empty header": Case(lambda _: [("Authorization", "")], SCHEME),
    "no scheme": Case(lambda a: [("Authorization", a.token())], SCHEME),
    "Basic scheme": Case(lambda a: [("Authorization", f"Basic {a.token()}")], SCHEME),
    "Bearer without a token": Case(lambda _: [("Authorization", "Bearer")], SHAPE),
    "Bearer and spaces": Case(lambda _: [("Authorization", "Bearer  ")], SHAPE),
    "two tokens in one header": Case(lambda a: bear(f"{a.token()}, Bearer {a.token()}"), SHAPE),
    "garbage": Case(lambda _: "garbage", SHAPE),
    "binary garbage": Case(lambda _: "\xff\xfe.\xfd.\xfc", SHAPE),
    "two segments": Case(lambda a: ".".join(split(a)[:2]), SHAPE),
    "four segments": Case(lambda a: a.token() + "." + split(a)[2], SHAPE),
    "five segments, encrypted": Case(lambda a: ".".join([*split(a), "AA", "AA"]), SHAPE),
    "oversize": Case(lambda a: a.token(more="x" * MAX_TOKEN_BYTES), "bytes; at most 8192 are looked at."),
    "header is no JSON": Case(lambda a: seal(b"{", a.claims(), sign_rs256()), UNREADABLE),
    "header is a list": Case(lambda a: seal(["RS256"], a.claims(), sign_rs256()), UNREADABLE),
    "header nested deep": Case(lambda a: seal(b"[" * 3000, a.claims(), sign_rs256()), UNREADABLE),
    "alg none, no signature": Case(lambda a: a.token(lambda _: b"", {"alg": "none"}), SHAPE),
    "alg none, with a signature": Case(lambda a: a.token(header={"alg": "none"}), ALG),
    "alg nOnE": Case(lambda a: a.token(header={"alg": "nOnE"}), ALG),
    "alg missing": Case(lambda a: a.token(header={"alg": ABSENT}), ALG),
    "alg a list": Case(lambda a: a.token(header={"alg": ["RS256"]}), ALG),
    "RS512, by Google's key": Case(lambda a: a.token(header={"alg": "RS512"}), ALG),
    "PS256": Case(lambda a: a.token(header={"alg": "PS256"}), ALG),
    "HS256 with the public key's PEM": Case(lambda a: a.token(sign_hs256(write_pem("google")), {"alg": "HS256"}), ALG),
    "HS256 with the JWKS": Case(lambda a: a.token(sign_hs256(write_jwks(**{KID: "google"})), {"alg": "HS256"}), ALG),
    "HMAC with the public key's PEM, called RS256": Case(lambda a: a.token(sign_hs256(write_pem("google"))), SIGNATURE),
    "RS256 by another key, a known kid": Case(lambda a: a.token(sign_rs256("attacker")), SIGNATURE),
    "unknown kid": Case(lambda a: a.token(sign_rs256("attacker"), {"kid": "other"}), UNKNOWN),
    "unknown kid, by Google's key": Case(lambda a: a.token(header={"kid": "other"}), UNKNOWN),
    "kid missing": Case(lambda a: a.token(header={"kid": ABSENT}), NO_KID),
    "kid empty": Case(lambda a: a.token(header={"kid": ""}), NO_KID),
    "kid a number": Case(lambda a: a.token(header={"kid": 0}), UNREADABLE),
    "kid a path": Case(lambda a: a.token(header={"kid": "../../dev/null"}), UNKNOWN),
    "embedded jwk": Case(lambda a: a.token(sign_rs256("attacker"), {"jwk": OWN_KEY}), "header brings jwk"),
    "embedded jwk, unknown kid": Case(
        lambda a: a.token(sign_rs256("attacker"), {"jwk": OWN_KEY, "kid": "mine"}), "header brings jwk"
    ),
    "jku": Case(lambda a: a.token(sign_rs256("attacker"), {"jku": ELSEWHERE}), "header brings jku"),
    "x5u": Case(lambda a: a.token(sign_rs256("attacker"), {"x5u": ELSEWHERE}), "header brings x5u"),
    "x5c": Case(lambda a: a.token(sign_rs256("attacker"), {"x5c": ["MIIB"]}), "header brings x5c"),
    "crit": Case(lambda a: a.token(header={"crit": ["b64"], "b64": True}), "header brings b64, crit"),
    "crit of an unknown extension": Case(lambda a: a.token(header={"crit": ["x"], "x": 1}), UNREADABLE),
    "tampered payload: other email": Case(lambda a: tamper(Account("a@b.c", a.audience), email=a.email), SIGNATURE),
    "tampered payload: longer life": Case(lambda a: tamper(a, exp=NOW + 86_400), SIGNATURE),
    "tampered header": Case(
        lambda a: ".".join([encode(json.dumps({"alg": "RS256", "kid": KID}).encode()), *split(a)[1:]]), SIGNATURE
    ),
    "signature of another token": Case(lambda a: ".".join([*split(a)[:2], a.token(iat=NOW).split(".")[2]]), SIGNATURE),
    "signature cut short": Case(lambda a: a.token(lambda signed: sign_rs256()(signed)[:-3]), SIGNATURE),
    "signature spelled otherwise": Case(lambda a: respell(a.token()), UNREADABLE),
    "trailing =": Case(lambda a: a.token() + "=", SHAPE),
    "trailing ==": Case(lambda a: a.token() + "==", SHAPE),
    "trailing dot": Case(lambda a: a.token() + ".", SHAPE),
    "trailing letters": Case(lambda a: a.token() + "AAAA", SIGNATURE),
    "trailing text": Case(lambda a: a.token() + " more", SHAPE),
    "expired": Case(lambda a: a.token(iat=NOW - 7200, exp=NOW - 3600), "The token has expired."),
    "not yet valid": Case(lambda a: a.token(nbf=NOW + 600), "The token is not valid yet."),
    "issued in the future": Case(lambda a: a.token(iat=NOW + 600, exp=NOW + 4200), "issued in the future"),
    "lifetime of a year": Case(lambda a: a.token(exp=NOW + 365 * 86_400), LIFETIME),
    "expires before it is issued": Case(lambda a: a.token(iat=NOW + 10, exp=NOW + 5), LIFETIME),
    "wrong issuer": Case(lambda a: a.token(iss="https://accounts.google.com.example.com"), "The issuer is not Google."),
    "Firebase's issuer": Case(lambda a: a.token(iss="https://securetoken.google.com/project"), "issuer is not Google"),
    "wrong audience": Case(lambda a: a.token(aud="https://other.example.com"), "another audience"),
    "audience with a slash more": Case(lambda a: a.token(aud=a.audience + "/"), "another audience"),
    "audience a list": Case(lambda a: a.token(aud=[a.audience]), "aud: Input should be a valid string."),
    "audience empty": Case(lambda a: a.token(aud=""), "aud: "),
    **{f"{claim} missing": omit(claim) for claim in ("iss", "aud", "sub", "email", "email_verified", "iat", "exp")},
    "sub empty": Case(lambda a: a.token(sub=""), "sub: "),
    "sub a number": Case(lambda a: a.token(sub=1), "sub: "),
    "exp a string": Case(lambda a: a.token(exp=str(NOW + 3000)), "exp: "),
    "exp a fraction": Case(lambda a: a.token(exp=NOW + 0.5), "exp: "),
    "exp true": Case(lambda a: a.token(exp=True), "exp: "),
    "exp null": Case(lambda a: a.token(exp=None), "exp: "),
    "exp beyond all numbers": Case(lambda a: a.token(exp=10**400), "exp: "),
    "iat negative": Case(lambda a: a.token(iat=-1), "iat: "),
    "nbf null": Case(lambda a: a.token(nbf=None), "nbf: "),
    "payload a list": Case(
        lambda a: seal({"alg": "RS256", "kid": KID}, [], sign_rs256()), "claims are not as they must"
    ),
    "payload no JSON": Case(lambda a: seal({"alg": "RS256", "kid": KID}, b"{", sign_rs256()), "claims are not as they"),
    "email not verified": Case(lambda a: a.token(email_verified=False), "email is not verified"),
    'email_verified "true"': Case(lambda a: a.token(email_verified="true"), "email_verified: "),
    "email_verified 1": Case(lambda a: a.token(email_verified=1), "email_verified: "),
    "email a list": Case(lambda a: a.token(email=[a.email]), "email: "),
    "email empty": Case(lambda a: a.token(email=""), "email: "),
    "email of another account": Case(lambda a: a.token(email="thief@elsewhere.iam.gserviceaccount.com"), "is not", 403),
    "email in capitals": Case(lambda a: a.token(email=a.email.upper()), "is not", 403),
    "email and more": Case(lambda a: a.token(email=a.email + ".example.com"), "is not", 403),
}


@pytest.mark.parametrize("account", [PUSHER, BACKEND], ids=["push", "session"])
@pytest.mark.parametrize("name", FORGED)
async def test_a_forged_token_is_refused_and_nothing_is_done(
    tmp_path: Path, key_server: KeyServer, log: list[dict[str, Any]], name: str, account: Account
) -> None:
    case = FORGED[name]
    made = case.make(account)
    async with open_guarded(tmp_path, trust_google(key_server)) as service:
        before = await service.bench.backend.read(SESSION)
        send = service.push if account is PUSHER else service.edit
        expect_refusal(await send(bear(made) if isinstance(made, str) else made), case.status)
        await service.expect_nothing_done(before)
    (line,) = log
    assert case.reason in line["reason"]
    assert all(part not in repr(line) for _, value in bear(account.token()) for part in value.split(".")[1:])


HEADSHOT_ROUTES = {
    "sync": ("POST", "/headshot", BACKEND),
    "async": ("POST", "/headshot-async", BACKEND),
    "upload": ("POST", "/headshot/uploads", BACKEND),
    "status": ("GET", "/headshot/headshot-1", BACKEND),
    "push": ("POST", "/headshot/push", PUSHER),
}


@pytest.mark.parametrize("name", HEADSHOT_ROUTES)
@pytest.mark.parametrize("case", ["no header", "expired", "wrong audience", "signature cut short"])
async def test_no_headshot_without_a_good_token(tmp_path: Path, key_server: KeyServer, name: str, case: str) -> None:
    method, path, account = HEADSHOT_ROUTES[name]
    made = FORGED[case].make(account)
    async with open_guarded(tmp_path, trust_google(key_server)) as service:
        before = await service.bench.backend.read(SESSION)
        headers = bear(made) if isinstance(made, str) else made
        expect_refusal(await service.send(method, path, headers, b"{}"), FORGED[case].status)
        await service.expect_nothing_done(before)


async def test_each_push_subscription_may_have_its_audience(tmp_path: Path, key_server: KeyServer) -> None:
    other = Account(PUSH_ACCOUNT, "https://service.example.com/headshot/push")
    data = base64.b64encode(b"{}").decode()
    body = json.dumps({"message": {"messageId": "1", "data": data}}).encode()
    trust = trust_google(key_server, headshot_push_audience=other.audience)
    async with open_guarded(tmp_path, trust, start=True) as service:
        for account, path, status in (
            (other, "/headshot/push", 204),
            (PUSHER, "/headshot/push", 401),
            (other, "/inpaint", 401),
            (PUSHER, "/inpaint", 204),
        ):
            answer = await service.send("POST", path, bear(account.token()), body)
            assert answer.status_code == status, (account, path)


async def test_a_token_that_names_an_address_makes_nobody_call_it(server: KeyServer) -> None:
    with serve_keys() as elsewhere:
        elsewhere.body = write_jwks(mine="attacker")
        for name in ("jku", "x5u"):
            token = PUSHER.token(sign_rs256("attacker"), {name: elsewhere.url, "kid": "mine"})
            with pytest.raises(Unauthenticated):
                await trust_google(server).verify_sender(connect(bear(token)))
        assert elsewhere.hits == 0


# -- who is let in -------------------------------------------------------------------------------------------------


def connect(headers: Headers, client: tuple[str, int] | None = ("127.0.0.1", 1)) -> HTTPConnection:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    return HTTPConnection({"type": "http", "path": "/", "headers": raw, "client": client})


async def test_a_good_push_and_a_good_call_are_done(tmp_path: Path, key_server: KeyServer) -> None:
    async with open_guarded(tmp_path, trust_google(key_server), start=True) as service:
        assert (await service.push(bear(PUSHER.token()))).status_code == 204
        response = await service.edit(bear(BACKEND.token()))
        assert (response.status_code, response.json()["job"]["status"]) == (200, "completed")
        assert (await service.send("GET", EDIT, bear(BACKEND.token()))).status_code == 200
        assert (await service.send("DELETE", EDIT, bear(BACKEND.token()))).status_code == 409


@pytest.mark.parametrize(
    "changes",
    [{}, {"iss": "accounts.google.com"}, {"nbf": NOW}, {"azp": ABSENT}, {"hd": "example.com", "more": [1]}],
    ids=str,
)
async def test_good_tokens(key_server: KeyServer, changes: dict[str, Any]) -> None:
    trust = trust_google(key_server)
    assert await trust.verify_sender(connect(bear(PUSHER.token(**changes)))) == VerifiedSender(PUSH_ACCOUNT)
    assert (await trust.verify_caller(connect(bear(BACKEND.token(**changes))))).id == CALLER


async def test_the_scheme_is_read_in_any_case_and_unknown_headers_mean_nothing(key_server: KeyServer) -> None:
    token = PUSHER.token(header={"typ": ABSENT, "x5t": "thumb"})
    for text in (f"bearer {token}", f"BEARER   {token}"):
        assert await trust_google(key_server).verify_sender(connect([("Authorization", text)]))


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({"exp": NOW - SKEW_S + 1, "iat": NOW - 3000}, {"exp": NOW - SKEW_S, "iat": NOW - 3000}),
        ({"iat": NOW + SKEW_S}, {"iat": NOW + SKEW_S + 1}),
        ({"nbf": NOW + SKEW_S}, {"nbf": NOW + SKEW_S + 1}),
        (
            {"iat": NOW, "exp": NOW + MAX_LIFETIME_S + SKEW_S},
            {"iat": NOW, "exp": NOW + MAX_LIFETIME_S + SKEW_S + 1},
        ),
        ({"iat": NOW, "exp": NOW + 1}, {"iat": NOW, "exp": NOW}),
    ],
    ids=["exp", "iat", "nbf", "longest life", "shortest life"],
)
async def test_the_clock_skew_is_allowed_to_the_second(
    key_server: KeyServer, good: dict[str, Any], bad: dict[str, Any]
) -> None:
    trust = trust_google(key_server)
    assert await trust.verify_sender(connect(bear(PUSHER.token(**good))))
    with pytest.raises(Unauthenticated):
        await trust.verify_sender(connect(bear(PUSHER.token(**bad))))


async def test_a_token_is_good_until_it_expires(server: KeyServer) -> None:
    server.headers = {"Cache-Control": "max-age=86400"}
    clock = HandClock()
    trust, connection = trust_google(server, clock), connect(bear(PUSHER.token()))
    assert await trust.verify_sender(connection)
    clock.time = NOW + 3000 + SKEW_S - 0.5
    assert await trust.verify_sender(connection)
    clock.time += 0.5
    with pytest.raises(Unauthenticated, match="expired"):
        await trust.verify_sender(connection)


async def test_pushes_and_calls_need_each_their_own_token(tmp_path: Path, key_server: KeyServer) -> None:
    async with open_guarded(tmp_path, trust_google(key_server)) as service:
        before = await service.bench.backend.read(SESSION)
        expect_refusal(await service.push(bear(BACKEND.token())), 401)
        expect_refusal(await service.edit(bear(PUSHER.token())), 401)
        expect_refusal(await service.edit(bear(Account(PUSH_ACCOUNT, BACKEND.audience).token())), 403)
        await service.expect_nothing_done(before)


async def test_no_allowed_callers_means_nobody(tmp_path: Path, key_server: KeyServer) -> None:
    trust = trust_google(key_server, allowed_callers=(), caller_audience="")
    async with open_guarded(tmp_path, trust) as service:
        before = await service.bench.backend.read(SESSION)
        for method in ("POST", "GET", "DELETE"):
            for headers in ([], bear(BACKEND.token()), bear(Account("", "").token())):
                expect_refusal(await service.send(method, EDIT, headers), 403)
        await service.expect_nothing_done(before)


async def test_every_route_but_the_probes_asks_who_is_there(tmp_path: Path, key_server: KeyServer) -> None:
    async with open_guarded(tmp_path, trust_google(key_server)) as service:
        before = await service.bench.backend.read(SESSION)
        described = (await service.http.get("/openapi.json")).json()["paths"]
        routes = [(method.upper(), path) for path, methods in described.items() for method in methods]
        assert len(routes) >= 7
        for method, path in routes:
            response = await service.send(method, path, [], b"{")
            if path in ("/health", "/healthz", "/ready"):
                assert response.status_code == 200
            elif path.startswith("/files/"):  # their link is the credential
                assert response.status_code == 403
            else:
                expect_refusal(response, 401)
        await service.expect_nothing_done(before)


async def test_a_stranger_is_not_told_what_else_is_wrong(tmp_path: Path, key_server: KeyServer) -> None:
    async with open_guarded(tmp_path, trust_google(key_server)) as service:
        for path in (EDIT, "/v1/users/a%20b/sessions/s/edit", "/v1/users/none/sessions/none/edit"):
            expect_refusal(await service.send("POST", path, [], b"not json"), 401)
        huge = [("Content-Length", str(2**40))]
        expect_refusal(await service.send("POST", "/inpaint", huge, b""), 401)
        response = await service.send("POST", EDIT, bear(BACKEND.token()), bytes(2**17))
        assert (response.status_code, response.json()["type"]) == (413, "urn:pawfect:problem:request_entity_too_large")


# -- the keys behind it --------------------------------------------------------------------------------------------


async def test_without_keys_a_push_is_to_be_delivered_again(tmp_path: Path, server: KeyServer) -> None:
    server.status = 500
    async with open_guarded(tmp_path, trust_google(server)) as service:
        before = await service.bench.backend.read(SESSION)
        for send, account in ((service.push, PUSHER), (service.edit, BACKEND)):
            response = await send(bear(account.token()))
            assert (response.status_code, response.json()["type"]) == (503, "urn:pawfect:problem:keys_unavailable")
            assert int(response.headers["retry-after"]) > 0
        await service.expect_nothing_done(before)


async def test_google_rotates_its_keys(server: KeyServer) -> None:
    clock = HandClock()
    trust = trust_google(server, clock)
    assert await trust.verify_sender(connect(bear(PUSHER.token())))
    server.body = write_jwks(fresh="next")
    clock.time += UNKNOWN_PAUSE_S
    assert await trust.verify_sender(connect(bear(PUSHER.token(sign_rs256("next"), {"kid": "fresh"}))))
    with pytest.raises(Unauthenticated, match="not one of Google's"):
        await trust.verify_sender(connect(bear(PUSHER.token())))


async def test_forged_keys_at_once_cause_one_fetch_and_broken_tokens_none(server: KeyServer) -> None:
    trust = trust_google(server)
    for token in ("garbage", PUSHER.token(header={"alg": "none"}), PUSHER.token(header={"kid": ABSENT})):
        with pytest.raises(Unauthenticated):
            await trust.verify_sender(connect(bear(token)))
    assert server.hits == 0
    forged = [PUSHER.token(header={"kid": f"forged-{number}"}) for number in range(50)]
    answers = await asyncio.gather(
        *(trust.verify_sender(connect(bear(token))) for token in forged), return_exceptions=True
    )
    assert {type(answer) for answer in answers} == {Unauthenticated}
    assert server.hits == 1


# -- whatever comes ------------------------------------------------------------------------------------------------

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
LETTERS = st.sampled_from("ABCXYZabcxyz0189-_=. +/~\x00\xe9")


def admit(server: KeyServer, headers: Headers) -> VerifiedSender:
    """A fresh verifier per token, so that none can profit from what another left."""
    return asyncio.run(trust_google(server).verify_sender(connect(headers)))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_mutation_of_a_good_token_is_let_in(key_server: KeyServer, data: st.DataObject) -> None:
    good = PUSHER.token()
    at = data.draw(st.integers(0, len(good)))
    gone = data.draw(st.integers(0, 3))
    mutated = good[:at] + data.draw(st.text(LETTERS, max_size=4)) + good[at + gone :]
    # Spaces between scheme and token belong to neither.
    assume(mutated.lstrip(" ") != good)
    with pytest.raises((Unauthenticated, KeysUnavailable)):
        admit(key_server, bear(mutated))


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(max_codepoint=255), max_size=200), is_bearer=st.booleans())
def test_no_text_in_the_header_is_let_in_or_a_defect(key_server: KeyServer, text: str, is_bearer: bool) -> None:
    with pytest.raises(Unauthenticated):
        admit(key_server, [("Authorization", f"Bearer {text}" if is_bearer else text)])


@settings(max_examples=100, deadline=None)
@given(claim=st.sampled_from(["iss", "aud", "sub", "email", "email_verified", "iat", "exp", "nbf"]), value=ANY_JSON)
def test_no_odd_claim_is_let_in_or_a_defect(key_server: KeyServer, claim: str, value: Any) -> None:
    is_time = claim in ("iat", "exp", "nbf")
    assume(not (is_time and type(value) is int) and not (claim == "sub" and isinstance(value, str) and value))
    assume(not (claim == "email_verified" and value is True))
    with pytest.raises(CallerError):
        admit(key_server, bear(PUSHER.token(**{claim: value})))


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from(["alg", "kid", "jwk", "crit", "b64"]), value=ANY_JSON)
def test_no_odd_header_parameter_is_let_in_or_a_defect(key_server: KeyServer, name: str, value: Any) -> None:
    with pytest.raises(Unauthenticated):
        admit(key_server, bear(PUSHER.token(header={name: value})))


# -- what is configured --------------------------------------------------------------------------------------------

EMULATED = {"PUBSUB_EMULATOR_HOST": "127.0.0.1:8085"}


def configure(**google: Any) -> Settings:
    given = {"push_account": PUSH_ACCOUNT, "push_audience": PUSHER.audience, **google}
    return Settings(env="gcp", google=GoogleSettings(**given))


@pytest.mark.parametrize("environment", [{}, EMULATED], ids=["cloud", "emulator"])
@pytest.mark.parametrize(
    ("google", "named"),
    [
        ({"push_audience": ""}, "PAWFECT_GOOGLE__PUSH_AUDIENCE"),
        ({"push_account": ""}, "PAWFECT_GOOGLE__PUSH_ACCOUNT"),
        ({"allowed_callers": (CALLER,)}, "PAWFECT_GOOGLE__CALLER_AUDIENCE"),
        ({"certificates_url": "http://keys.example.com/certs"}, "PAWFECT_GOOGLE__CERTIFICATES_URL"),
        ({"certificates_url": "file:///etc/keys"}, "PAWFECT_GOOGLE__CERTIFICATES_URL"),
        ({"certificates_url": ""}, "PAWFECT_GOOGLE__CERTIFICATES_URL"),
    ],
)
def test_settings_that_would_verify_nothing_stop_the_start(
    environment: dict[str, str], google: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named):
        check_trust(configure(**google), environment)
    with pytest.raises(ConfigurationError, match=named):
        choose_trust(configure(**google), HandClock(), environment)


@pytest.mark.parametrize("environment", [{}, {"PUBSUB_EMULATOR_HOST": ""}])
def test_without_an_account_only_the_emulator_starts(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="PUSH_AUDIENCE and PAWFECT_GOOGLE__PUSH_ACCOUNT must be set"):
        check_trust(configure(push_account="", push_audience=""), environment)


def test_an_account_is_verified_wherever_pub_sub_is(log: list[dict[str, Any]]) -> None:
    for environment in ({}, EMULATED):
        assert isinstance(choose_trust(configure(), HandClock(), environment), GoogleTokens)
    assert log == []


async def test_on_the_emulator_pushes_need_no_token_and_calls_do(
    tmp_path: Path, server: KeyServer, log: list[dict[str, Any]]
) -> None:
    google = server.settings(push_account="", push_audience="")
    trust = choose_trust(Settings(env="gcp", google=google), HandClock(), EMULATED)
    assert isinstance(trust, UnsignedPushes)
    (line,) = log
    assert (line["levelname"], "UNSIGNED PUSHES" in line["text"]) == ("WARNING", True)
    async with open_guarded(tmp_path, trust, start=True) as service:
        expect_refusal(await service.edit([]), 401)
        expect_refusal(await service.edit(bear(PUSHER.token())), 401)
        assert (await service.push([])).status_code == 204
        assert (await service.edit(bear(BACKEND.token()))).status_code == 200


def test_local_trusts_without_asking_the_environment() -> None:
    assert isinstance(choose_trust(Settings(), HandClock(), EMULATED), LocalTrust)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
async def test_this_machine_is_trusted_locally(host: str) -> None:
    connection = connect([], (host, 1))
    assert await LocalTrust().verify_sender(connection) == VerifiedSender("local")
    assert await LocalTrust().verify_caller(connection) == VerifiedCaller("local")


@pytest.mark.parametrize(
    ("name", "value", "is_ours"),
    [
        ("Host", "127.0.0.1:8000", True),
        ("Host", "localhost:8000", True),
        ("Host", "[::1]:8000", True),
        ("Origin", "http://localhost:8000", True),
        ("Host", "evil.example:8000", False),
        ("Host", "localhost.evil.example", False),
        ("Host", "127.0.0.1@evil.example", False),
        ("Origin", "https://evil.example", False),
        ("Origin", "null", False),
    ],
)
async def test_a_page_in_the_browser_of_this_machine_is_not_trusted(name: str, value: str, is_ours: bool) -> None:
    connection = connect([(name, value)], ("127.0.0.1", 1))
    if is_ours:
        await LocalTrust().verify_sender(connection)
        return
    with pytest.raises(Forbidden):
        await LocalTrust().verify_sender(connection)
    with pytest.raises(Forbidden):
        await LocalTrust().verify_caller(connection)


@pytest.mark.parametrize(
    "host", ["10.0.0.7", "8.8.8.8", "::2", "::ffff:10.0.0.7", "169.254.0.1", "", "example.com", None]
)
async def test_no_other_machine_is_trusted_locally(host: str | None) -> None:
    connection = connect(bear(PUSHER.token()), None if host is None else (host, 1))
    with pytest.raises(Forbidden):
        await LocalTrust().verify_sender(connection)
    with pytest.raises(Forbidden):
        await LocalTrust().verify_caller(connection)


# -- the types -----------------------------------------------------------------------------------------------------


def test_only_the_verifiers_make_what_is_verified() -> None:
    root = Path(__file__).resolve().parents[3]
    guarded = {"VerifiedPush", "VerifiedSender", "VerifiedCaller", "open_envelope"}
    makers: dict[str, set[str]] = {}
    for package in ("ingress", "serve_app", "pawfect"):
        for path in (root / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                    if name in guarded:
                        makers.setdefault(name, set()).add(path.relative_to(root).as_posix())
    assert makers == {name: {"ingress/auth.py"} for name in guarded}
