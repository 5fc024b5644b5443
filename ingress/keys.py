"""Google's signing keys (a JWK set, RFC 7517): fetched when needed, cached, and never fetched at a stranger's command.

A token with an unknown key makes the set be fetched once more, as the keys may have been rotated, but not more often
than `UNKNOWN_PAUSE_S` allows, however many such tokens come. Requests that need the set at one time share one fetch,
which no caller's disconnect stops.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Mapping
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import InvalidKeyError
from jwt.algorithms import RSAAlgorithm

from ingress.tokens import ALGORITHM
from serve_app.clock import Clock
from serve_app.errors import KeysUnavailable

log = logging.getLogger(__name__)

MIN_FRESH_S = 60.0
MAX_FRESH_S = 86_400.0
"""Bounds of the answer's own max-age (Google's is about six hours): below the first we would ask with every push, above
the second a withdrawn key would be trusted for too long."""

MAX_STALE_S = 6 * 3600.0
"""How much longer old keys serve while no new ones can be had: long enough to notice and mend an outage, while a key
that Google has withdrawn is trusted at most so much longer."""

UNKNOWN_PAUSE_S = 60.0
"""After a good answer, before an unknown key may cause another fetch. Google publishes a key well before it uses it."""

FAILURE_PAUSE_S = 5.0
"""After a failed fetch, before the next."""

MAX_BYTES = 256 * 1024
"""Google's set has about 3 KB."""

MIN_KEY_BITS = 2048

_MAX_AGE = re.compile(r'(?:^|[\s,])max-age="?(\d{1,10})', re.IGNORECASE)


class KeySet:
    """One event loop's view of the set behind `url`; `timeout_s` bounds one fetch as a whole, in seconds."""

    def __init__(self, url: str, timeout_s: float, clock: Clock) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._clock = clock
        self._keys: Mapping[str, RSAPublicKey] = {}
        self._fresh_until = -1.0
        self._stale_until = -1.0
        self._not_before = -1.0
        self._failed = False
        self._fetch: asyncio.Task[None] | None = None

    async def find(self, kid: str) -> RSAPublicKey | None:
        """The key of this id; None when there is none.

        Raises KeysUnavailable when that cannot be told: no set can be had that is recent enough.
        """
        if self._is_due(kid):
            await self._share_fetch()
        key = self._keys.get(kid) if self._clock.monotonic() < self._stale_until else None
        if key is None and self._failed:
            raise KeysUnavailable("The keys that tokens are verified with cannot be had at the moment.")
        return key

    def _is_due(self, kid: str) -> bool:
        now = self._clock.monotonic()
        return now >= self._not_before and (now >= self._fresh_until or kid not in self._keys)

    async def _share_fetch(self) -> None:
        if self._fetch is None:
            self._fetch = asyncio.create_task(self._refresh(), name="fetch-signing-keys")
        await asyncio.shield(self._fetch)

    async def _refresh(self) -> None:
        try:
            self._keys, fresh_s = await self._ask()
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, RecursionError) as error:
            self._failed = True
            self._not_before = self._clock.monotonic() + FAILURE_PAUSE_S
            log.warning("the signing keys cannot be fetched", extra={"url": self._url, "error": repr(error)})
        else:
            self._failed = False
            now = self._clock.monotonic()
            self._not_before = now + UNKNOWN_PAUSE_S
            self._fresh_until = now + fresh_s
            self._stale_until = self._fresh_until + MAX_STALE_S
        finally:
            self._fetch = None

    async def _ask(self) -> tuple[Mapping[str, RSAPublicKey], float]:
        """The set and the seconds it stays fresh. Raises httpx's errors, OSError, ValueError, RecursionError."""
        body = bytearray()
        async with asyncio.timeout(self._timeout_s), httpx.AsyncClient(timeout=self._timeout_s) as client:
            async with client.stream("GET", self._url, headers={"Accept": "application/json"}) as response:
                if response.status_code != httpx.codes.OK:
                    raise ValueError(f"the answer has status {response.status_code}")
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise ValueError(f"the answer has more than {MAX_BYTES} bytes")
            return read_keys(bytes(body)), read_freshness(response.headers)


def read_keys(body: bytes) -> dict[str, RSAPublicKey]:
    """The usable keys of a JWK set by their id; others are passed over (RFC 7517, section 5).

    Raises ValueError for what is no such set or has no usable key, RecursionError for JSON nested too deep.
    """
    document = json.loads(body)
    members = document.get("keys") if isinstance(document, dict) else None
    listed = members if isinstance(members, list) else []
    keys = {str(member["kid"]): key for member in listed if (key := _read_key(member)) is not None}
    if not keys:
        raise ValueError("the answer is not a JWK set with a usable key")
    return keys


def _read_key(member: Any) -> RSAPublicKey | None:
    if not isinstance(member, dict) or not isinstance(member.get("kid"), str) or not member["kid"]:
        return None
    if member.get("use", "sig") != "sig" or member.get("alg", ALGORITHM) != ALGORITHM:
        return None
    try:  # a member of another type than RSA is an InvalidKeyError
        key = RSAAlgorithm.from_jwk({name: member[name] for name in ("kty", "n", "e")})
    except (InvalidKeyError, KeyError, TypeError, ValueError):
        return None
    return key if isinstance(key, RSAPublicKey) and key.key_size >= MIN_KEY_BITS else None


def read_freshness(headers: Mapping[str, str]) -> float:
    """Seconds an answer stays fresh: its max-age less its Age (RFC 9111, section 4.2), within our bounds."""
    found = _MAX_AGE.search(headers.get("cache-control", ""))
    age = headers.get("age", "")
    seconds = float(found[1]) if found else 0.0
    seconds -= float(age) if age.isascii() and age.isdecimal() else 0.0
    return min(max(seconds, MIN_FRESH_S), MAX_FRESH_S)
