"""The cached key set, against a real HTTP server and a clock set by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from ingress.keys import (
    FAILURE_PAUSE_S,
    MAX_BYTES,
    MAX_FRESH_S,
    MAX_STALE_S,
    MIN_FRESH_S,
    UNKNOWN_PAUSE_S,
    KeySet,
    read_freshness,
    read_keys,
)
from serve_app.errors import KeysUnavailable
from tests.tokens import KID, HandClock, KeyServer, make_key, serve_keys, write_jwk, write_jwks

FRESH_S = 19800.0
LONG_S = 10.0  # a real time-out for what should come at once


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with serve_keys() as server:
        yield server


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def keys(server: KeyServer, clock: HandClock) -> KeySet:
    return KeySet(server.url, LONG_S, clock)


async def test_keys_are_fetched_once_and_cached_as_long_as_the_answer_says(
    server: KeyServer, clock: HandClock, keys: KeySet
) -> None:
    for _ in range(3):
        found = await keys.find(KID)
        assert found is not None
        assert found.public_numbers() == make_key("google").public_key().public_numbers()
    clock.time += FRESH_S - 1
    await keys.find(KID)
    assert server.hits == 1
    clock.time += 1
    await keys.find(KID)
    assert server.hits == 2


async def test_concurrent_requests_share_one_fetch(server: KeyServer, keys: KeySet) -> None:
    server.gate.clear()
    waiting = [asyncio.create_task(keys.find(kid)) for kid in [KID, "forged"] * 20]
    async with asyncio.timeout(LONG_S):
        while server.hits == 0:
            await asyncio.sleep(0.01)
    server.gate.set()
    found = await asyncio.gather(*waiting)
    assert server.hits == 1
    assert [key is not None for key in found] == [True, False] * 20


async def test_a_caller_who_leaves_does_not_stop_the_fetch_of_the_others(server: KeyServer, keys: KeySet) -> None:
    server.gate.clear()
    first, second = (asyncio.create_task(keys.find(KID)) for _ in range(2))
    async with asyncio.timeout(LONG_S):
        while server.hits == 0:
            await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.wait([first])
    server.gate.set()
    assert await second is not None
    assert server.hits == 1


async def test_a_rotated_key_is_found_and_a_withdrawn_one_is_gone(
    server: KeyServer, clock: HandClock, keys: KeySet
) -> None:
    await keys.find(KID)
    server.body = write_jwks(fresh="next")
    clock.time += UNKNOWN_PAUSE_S
    assert await keys.find("fresh") is not None
    assert await keys.find(KID) is None
    assert server.hits == 2


async def test_an_unknown_key_is_asked_for_no_more_often_than_the_pause_allows(
    server: KeyServer, clock: HandClock, keys: KeySet
) -> None:
    await keys.find(KID)
    clock.time += UNKNOWN_PAUSE_S - 1
    assert await keys.find("forged") is None
    assert server.hits == 1
    clock.time += 1
    assert await keys.find("forged") is None
    assert server.hits == 2


@pytest.mark.parametrize("status", [200, 500])
async def test_a_flood_of_forged_keys_does_not_become_a_flood_of_fetches(
    server: KeyServer, clock: HandClock, keys: KeySet, status: int
) -> None:
    await keys.find(KID)
    server.status, start = status, clock.time
    for number in range(1200):
        clock.time = start + number * 0.5
        try:
            assert await keys.find(f"forged-{number}") is None
        except KeysUnavailable:
            assert status == 500
    assert 2 <= server.hits <= 1 + 600 / (UNKNOWN_PAUSE_S if status == 200 else FAILURE_PAUSE_S)
    assert await keys.find(KID) is not None


async def test_without_any_keys_nothing_can_be_said(server: KeyServer, clock: HandClock, keys: KeySet) -> None:
    server.status = 503
    for _ in range(3):
        with pytest.raises(KeysUnavailable):
            await keys.find(KID)
    assert server.hits == 1
    server.status = 200
    clock.time += FAILURE_PAUSE_S
    assert await keys.find(KID) is not None
    assert await keys.find("other") is None


async def test_stale_keys_serve_for_a_while_when_no_new_ones_come(
    server: KeyServer, clock: HandClock, keys: KeySet
) -> None:
    await keys.find(KID)
    server.status = 500
    clock.time += FRESH_S + MAX_STALE_S - 1
    assert await keys.find(KID) is not None
    assert server.hits == 2
    with pytest.raises(KeysUnavailable):  # rotated meanwhile, or forged: it cannot be told
        await keys.find("other")
    clock.time += 1
    with pytest.raises(KeysUnavailable):
        await keys.find(KID)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"keys": []}',
        b'{"keys": [1, {}]}',
        b'{"' + KID.encode() + b'": "-----BEGIN CERTIFICATE-----"}',
        b"[" * 20_000,
        b" " * MAX_BYTES + write_jwks(**{KID: "google"}),
    ],
    ids=["empty", "html", "list", "no keys", "none", "no key", "the v1 format", "nested", "too long"],
)
async def test_an_answer_that_is_no_key_set_leaves_the_old_one(
    server: KeyServer, clock: HandClock, keys: KeySet, body: bytes
) -> None:
    await keys.find(KID)
    server.body = body
    clock.time += FRESH_S
    assert await keys.find(KID) is not None
    assert server.hits == 2
    with pytest.raises(KeysUnavailable):
        await KeySet(server.url, LONG_S, clock).find(KID)


async def test_a_redirect_is_not_followed(server: KeyServer, clock: HandClock, keys: KeySet) -> None:
    with serve_keys() as elsewhere:
        server.status, server.headers = 302, {"Location": elsewhere.url}
        with pytest.raises(KeysUnavailable):
            await keys.find(KID)
        assert (server.hits, elsewhere.hits) == (1, 0)


async def test_nobody_listening_and_nobody_answering_are_outages(server: KeyServer, clock: HandClock) -> None:
    server.gate.clear()
    with pytest.raises(KeysUnavailable):
        await KeySet(server.url, 0.05, clock).find(KID)
    for url in ("http://127.0.0.1:1/certs", "http://[", "nonsense"):
        with pytest.raises(KeysUnavailable):
            await KeySet(url, LONG_S, clock).find(KID)


GOOD = write_jwk(KID, "google")


@pytest.mark.parametrize(
    "member",
    [
        {"kty": "oct", "k": "c2VjcmV0"},
        {"kty": "EC"},
        {"use": "enc"},
        {"alg": "RS512"},
        {"alg": "HS256"},
        {"kid": ""},
        {"kid": 7},
        {"n": None},
        {"n": "!"},
        {"e": "AQ"},
        write_jwk("small", "small"),
    ],
    ids=str,
)
def test_a_key_of_another_kind_is_passed_over(member: dict[str, Any]) -> None:
    other = {**GOOD, "kid": "other", **member}
    assert list(read_keys(json.dumps({"keys": [other, GOOD]}).encode())) == [KID]


def test_a_key_need_not_say_what_it_is_for() -> None:
    bare = {name: value for name, value in GOOD.items() if name not in ("use", "alg")}
    assert list(read_keys(json.dumps({"keys": [bare]}).encode())) == [KID]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"cache-control": "public, max-age=19800, must-revalidate, no-transform"}, 19800),
        ({"cache-control": "max-age=19800", "age": "800"}, 19000),
        ({"cache-control": 'MAX-AGE="7200"'}, 7200),
        ({"cache-control": "s-maxage=9000"}, MIN_FRESH_S),
        ({"cache-control": "max-age=0"}, MIN_FRESH_S),
        ({"cache-control": "no-store"}, MIN_FRESH_S),
        ({"cache-control": "max-age=-5"}, MIN_FRESH_S),
        ({"cache-control": "max-age=600", "age": "9" * 400}, MIN_FRESH_S),
        ({"cache-control": "max-age=600", "age": "soon"}, 600),
        ({"cache-control": "max-age=99999999999999999999"}, MAX_FRESH_S),
        ({}, MIN_FRESH_S),
    ],
)
def test_how_long_an_answer_is_fresh(headers: dict[str, str], seconds: float) -> None:
    assert read_freshness(headers) == seconds
