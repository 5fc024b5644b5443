"""Who is let in, what for, and for how long; and what a service does whose keys come late or change."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ingress.auth import VerifiedSender
from ingress.keys import UNKNOWN_PAUSE_S
from ingress.tokens import MAX_LIFETIME_S
from serve_app.errors import Unauthenticated
from tests.tokens import (
    ABSENT,
    BACKEND,
    CALLER,
    NOW,
    PUSH_ACCOUNT,
    PUSHER,
    SKEW_S,
    Account,
    HandClock,
    KeyServer,
    serve_keys,
    sign_rs256,
    write_jwks,
)
from tests.unit.ingress.guarded import EDIT, bear, connect, expect_refusal, open_guarded, trust_google
from tests.workbench import SESSION


async def test_a_token_that_names_an_address_makes_nobody_call_it(server: KeyServer) -> None:
    with serve_keys() as elsewhere:
        elsewhere.body = write_jwks(mine="attacker")
        for name in ("jku", "x5u"):
            token = PUSHER.token(sign_rs256("attacker"), {name: elsewhere.url, "kid": "mine"})
            with pytest.raises(Unauthenticated):
                await trust_google(server).verify_sender(connect(bear(token)))
        assert elsewhere.hits == 0


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
