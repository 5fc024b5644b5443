"""Who is trusted by the environment: what the settings have to say, the emulator, this machine."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from ingress.auth import GoogleTokens, LocalTrust, UnsignedPushes, VerifiedCaller, VerifiedSender, choose_trust
from ingress.trust import check_trust
from serve_app.errors import ConfigurationError, Forbidden
from serve_app.settings import Settings
from serve_app.settings_sections import GoogleSettings
from tests.tokens import BACKEND, CALLER, PUSH_ACCOUNT, PUSHER, HandClock, KeyServer
from tests.unit.ingress.guarded import bear, connect, expect_refusal, open_guarded

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
