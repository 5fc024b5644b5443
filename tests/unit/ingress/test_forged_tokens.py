"""Forged and broken tokens against the whole HTTP application, and what each is refused for."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ingress.tokens import MAX_TOKEN_BYTES
from tests.tokens import (
    ABSENT,
    BACKEND,
    KID,
    NOW,
    PUSH_ACCOUNT,
    PUSHER,
    Account,
    KeyServer,
    encode,
    seal,
    sign_hs256,
    sign_rs256,
    write_jwk,
    write_jwks,
    write_pem,
)
from tests.unit.ingress.guarded import Headers, bear, expect_refusal, open_guarded, trust_google
from tests.workbench import SESSION


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
