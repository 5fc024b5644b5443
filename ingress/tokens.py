"""Google's identity tokens: every check of one, written out.

A token is a JWT (RFC 7519), checked as RFC 8725 advises; what Google puts into it is described at
https://cloud.google.com/pubsub/docs/authenticate-push-subscriptions. PyJWT verifies the signature and nothing else: its
own claim checks read the system's clock, take numbers from strings, and let a list be an audience.

Each function raises Unauthenticated with the reason, which is for our log; the caller is told less.
"""

from __future__ import annotations

import re
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWS, PyJWTError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import HTTPConnection

from ingress.problems import describe_validation
from serve_app.errors import Unauthenticated

ALGORITHM = "RS256"
"""The only one, whatever the token's header wishes for (RFC 8725, section 3.1)."""

ISSUERS = frozenset({"https://accounts.google.com", "accounts.google.com"})
"""Both are Google's, https://developers.google.com/identity/openid-connect/openid-connect#validatinganidtoken."""

MAX_TOKEN_BYTES = 8192
"""Google's tokens have about 800 bytes; nothing longer is decoded."""

MAX_LIFETIME_S = 3600
"""Google's identity tokens live one hour. One that lives longer was not made the way they are, and would outlast the
withdrawal of its account's rights by as much. The clock skew is allowed on top, for an `iat` set back on purpose."""

REFUSED_HEADERS = frozenset({"jwk", "jku", "x5c", "x5u", "crit", "b64", "zip"})
"""Header parameters with which a token would bring its own key, or ask for a reading other than the plain one
(RFC 7515, section 4.1; RFC 7797). Google's tokens have none of them; other unknown parameters mean nothing."""

_SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
"""Stricter than PyJWT, which lets '=' stand at a part's end: then one signature has several spellings."""

_JWS = PyJWS(algorithms=[ALGORITHM], options={"verify_signature": True, "enforce_minimum_key_length": True})

Text = Annotated[str, Field(min_length=1)]
Moment = Annotated[int, Field(ge=0, lt=2**40)]
"""Seconds of the Unix clock; the bound keeps sums with it exact."""


class Claims(BaseModel):
    """What a token must say, and of which type; strict, so that "true" is no boolean and "17" no time."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    iss: Text
    aud: Text
    sub: Text
    email: Text
    email_verified: bool
    iat: Moment
    exp: Moment
    nbf: Moment = 0


def read_bearer(connection: HTTPConnection) -> str:
    """The credential of the one Authorization header (RFC 6750, section 2.1), a token or an API key."""
    values = connection.headers.getlist("authorization")
    if len(values) != 1:
        raise Unauthenticated(f"There are {len(values)} Authorization headers where there must be one.")
    scheme, _, rest = values[0].partition(" ")
    token = rest.lstrip(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("The Authorization header is not of the Bearer scheme.")
    if len(token) > MAX_TOKEN_BYTES:
        raise Unauthenticated(f"The token has {len(token)} bytes; at most {MAX_TOKEN_BYTES} are looked at.")
    return token


def check_shape(token: str) -> None:
    if not _SHAPE.fullmatch(token):
        raise Unauthenticated("The token is not three parts of base64url.")


def read_key_id(token: str) -> str:
    """The `kid` of a token whose header is acceptable; nothing is verified yet."""
    try:
        header = _JWS.get_unverified_header(token)
    except PyJWTError as error:
        raise Unauthenticated(f"The token cannot be read ({type(error).__name__}).") from None
    if header.get("alg") != ALGORITHM:
        raise Unauthenticated(f"The token's alg is not {ALGORITHM}.")
    if brought := REFUSED_HEADERS & header.keys():
        raise Unauthenticated(f"The token's header brings {', '.join(sorted(brought))}.")
    kid = header.get("kid")
    if not isinstance(kid, str) or not kid:
        raise Unauthenticated("The token does not name its key.")
    return kid


def open_token(token: str, key: RSAPublicKey) -> Claims:
    """The claims, once the signature over them is verified; before that the payload is not even parsed."""
    try:
        payload: bytes = _JWS.decode_complete(token, key, algorithms=[ALGORITHM])["payload"]
    except PyJWTError:
        raise Unauthenticated("The signature is not by the key that the token names.") from None
    try:
        return Claims.model_validate_json(payload)
    except ValidationError as error:
        raise Unauthenticated(f"The claims are not as they must be: {describe_validation(error.errors())}") from None


def check_claims(claims: Claims, audience: str, now: float, skew_s: float) -> None:
    """`now` is a Unix time, `skew_s` how far two clocks may be apart, in seconds."""
    if claims.iss not in ISSUERS:
        raise Unauthenticated("The issuer is not Google.")
    if claims.aud != audience:
        raise Unauthenticated("The token is meant for another audience.")
    if now >= claims.exp + skew_s:
        raise Unauthenticated("The token has expired.")
    if claims.iat > now + skew_s:
        raise Unauthenticated("The token is issued in the future.")
    if claims.nbf > now + skew_s:
        raise Unauthenticated("The token is not valid yet.")
    if not 0 < claims.exp - claims.iat <= MAX_LIFETIME_S + skew_s:
        raise Unauthenticated("The token's lifetime is not that of a token of Google's.")
    if claims.email_verified is not True:
        raise Unauthenticated("The token's email is not verified.")
