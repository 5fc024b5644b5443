"""Google, as far as tokens go: accounts whose tokens it signs, and the address where it publishes its keys."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

from serve_app.settings_sections import GoogleSettings

NOW = 1_800_000_000
SKEW_S = 30
KID = "7d680d8c70d44e947133cbd499ebc1a61c3d5abc"
PUSH_ACCOUNT = "push@project.iam.gserviceaccount.com"
PUSH_AUDIENCE = "https://edits.example.com/inpaint"
CALLER = "backend@project.iam.gserviceaccount.com"
CALLER_AUDIENCE = "https://edits.example.com"
ABSENT: Any = object()

Sign = Callable[[bytes], bytes]


class HandClock:
    def __init__(self) -> None:
        self.time = float(NOW)

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


@cache
def make_key(name: str) -> rsa.RSAPrivateKey:
    """One key per name; Google's own is "google", and "small" is smaller than it may be."""
    return rsa.generate_private_key(public_exponent=65537, key_size=1024 if name == "small" else 2048)


def write_pem(name: str) -> bytes:
    return make_key(name).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def write_jwk(kid: str, name: str) -> dict[str, Any]:
    public: dict[str, Any] = RSAAlgorithm.to_jwk(make_key(name).public_key(), as_dict=True)
    return {"kid": kid, "kty": "RSA", "alg": "RS256", "use": "sig", "n": public["n"], "e": public["e"]}


def write_jwks(**names: str) -> bytes:
    """A JWK set of the keys named, by their kid."""
    return json.dumps({"keys": [write_jwk(kid, name) for kid, name in names.items()]}).encode()


def sign_rs256(name: str = "google") -> Sign:
    return lambda signed: make_key(name).sign(signed, padding.PKCS1v15(), hashes.SHA256())


def sign_hs256(secret: bytes) -> Sign:
    return lambda signed: hmac.digest(secret, signed, hashlib.sha256)


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass(frozen=True)
class Account:
    """A service account, and what Google would write into a token for it."""

    email: str
    audience: str

    def claims(self, **changes: Any) -> dict[str, Any]:
        """A good token's claims, with changes; ABSENT leaves one out."""
        good = {
            "aud": self.audience,
            "azp": "113774264463038321964",
            "email": self.email,
            "email_verified": True,
            "exp": NOW + 3000,
            "iat": NOW - 600,
            "iss": "https://accounts.google.com",
            "sub": "113774264463038321964",
        }
        return {name: value for name, value in {**good, **changes}.items() if value is not ABSENT}

    def token(self, sign: Sign = sign_rs256(), header: Mapping[str, Any] | None = None, **changes: Any) -> str:
        """A token with changed claims, or with changed header parameters, or signed by somebody else."""
        whole = {"alg": "RS256", "kid": KID, "typ": "JWT", **(header or {})}
        return seal({name: value for name, value in whole.items() if value is not ABSENT}, self.claims(**changes), sign)


def seal(header: Any, claims: Any, sign: Sign) -> str:
    """Header and claims as JSON, or as the bytes they are given as, and the signature over them."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)]
    signed = ".".join(encode(part) for part in parts)
    return f"{signed}.{encode(sign(signed.encode()))}"


PUSHER = Account(PUSH_ACCOUNT, PUSH_AUDIENCE)
BACKEND = Account(CALLER, CALLER_AUDIENCE)


@dataclass
class KeyServer:
    """What it answers next, and how often it was asked. While `gate` is closed, it does not answer."""

    url: str
    body: bytes = field(default_factory=lambda: write_jwks(**{KID: "google"}))
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Cache-Control": "public, max-age=19800"})
    hits: int = 0
    gate: threading.Event = field(default_factory=threading.Event)

    def settings(self, **changes: Any) -> GoogleSettings:
        given = {
            "push_account": PUSH_ACCOUNT,
            "push_audience": PUSH_AUDIENCE,
            "allowed_callers": (CALLER,),
            "caller_audience": CALLER_AUDIENCE,
            "certificates_url": self.url,
            "clock_skew_s": SKEW_S,
        }
        return GoogleSettings(**{**given, **changes})


@contextmanager
def serve_keys() -> Iterator[KeyServer]:
    """A real HTTP server on a loopback port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.hits += 1
            keys.gate.wait(30)
            self.send_response(keys.status)
            for name, value in keys.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(keys.body)))
            self.end_headers()
            self.wfile.write(keys.body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    keys = KeyServer(f"http://127.0.0.1:{server.server_port}/certs")
    keys.gate.set()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield keys
    finally:
        keys.gate.set()
        server.shutdown()
        thread.join()
        server.server_close()
