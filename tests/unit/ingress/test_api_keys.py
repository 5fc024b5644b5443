"""API keys: who is let in by one, whose sessions it opens, and what a change of their file does."""

from __future__ import annotations

import base64
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from ingress.allowance import UNBOUNDED, Allowance
from ingress.api_keys import PREFIX, ApiKeys, draw_key, hash_key
from ingress.auth import TOLD, GoogleTokens, KeyedCalls, LocalTrust, choose_trust
from ingress.keys import KeySet
from ingress.trust import check_trust
from pawfect import keys as command
from serve_app.errors import ConfigurationError, Forbidden, Unauthenticated
from serve_app.settings import Settings
from serve_app.settings_sections import CallerSettings
from tests.api import open_api
from tests.tokens import BACKEND, CALLER, NOW, PUSHER, HandClock, KeyServer, serve_keys
from tests.workbench import SESSION

KEY = draw_key()
OTHER = draw_key()
EDIT = "/v1/users/user/sessions/session/edit"


def row(name: str = "shop", key: str = KEY, **more: Any) -> dict[str, Any]:
    return {"name": name, "sha256": hash_key(key), **more}


@dataclass
class KeysFile:
    path: Path
    clock: HandClock
    written: int = 0

    def write(self, *rows: dict[str, Any], text: str | None = None) -> None:
        self.path.write_text(json.dumps(rows) if text is None else text)
        self.written += 1
        os.utime(self.path, (NOW, NOW + self.written))  # two writes within one tick of the file system's clock

    def settings(self, **more: Any) -> CallerSettings:
        return CallerSettings(keys_file=self.path, **more)

    def open(self, **more: Any) -> ApiKeys:
        return ApiKeys(self.settings(**more), self.clock)


@pytest.fixture
def file(tmp_path: Path) -> KeysFile:
    made = KeysFile(tmp_path / "keys.json", HandClock())
    made.write(row())
    return made


@pytest.fixture
def log() -> Iterator[list[str]]:
    """All that the ingress logs, with its fields."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"{record.getMessage()} {record.__dict__}")

    logger, handler = logging.getLogger("ingress"), Lines()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def connect(*values: str, client: str = "127.0.0.1") -> HTTPConnection:
    raw = [(b"authorization", value.encode()) for value in values]
    return HTTPConnection({"type": "http", "path": "/", "headers": raw, "client": (client, 1)})


# -- who is let in -------------------------------------------------------------------------------------------------


async def test_a_key_names_its_caller_and_what_it_may_do(file: KeysFile) -> None:
    limits = {"requests_per_minute": 3, "concurrent_jobs": 2}
    file.write(row(users=["a*", "b"], **limits), row("app", OTHER))
    trust = KeyedCalls(file.open(requests_per_minute=50, concurrent_jobs=5), LocalTrust())
    shop = await trust.verify_caller(connect(f"Bearer {KEY}"))
    assert (shop.id, shop.allowance) == ("key:shop", Allowance(("a*", "b"), **limits))
    app = await trust.verify_caller(connect(f"bearer   {OTHER}"))
    assert (app.id, app.allowance) == ("key:app", Allowance((), 50, 5))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: [f"Bearer {OTHER}"], "none of ours"),
        (lambda: [f"Bearer {hash_key(KEY)}"], "three parts"),
        (lambda: [f"Bearer {PREFIX}{hash_key(KEY)}"], "form of one"),
        (lambda: [f"Bearer {KEY.swapcase()}"], "three parts"),
        (lambda: [f"Bearer {KEY[:-1]}"], "form of one"),
        (lambda: [f"Bearer {KEY}="], "form of one"),
        (lambda: [f"Bearer {KEY} "], "form of one"),
        (lambda: [f"Bearer {KEY}, Bearer {KEY}"], "form of one"),
        (lambda: [f"Bearer {PREFIX}"], "form of one"),
        (lambda: [f"Basic {KEY}"], "Bearer scheme"),
        (lambda: [KEY], "Bearer scheme"),
        (lambda: [f"Bearer {KEY}"] * 2, "2 Authorization headers"),
        (lambda: [f"Bearer {BACKEND.token()}", f"Bearer {KEY}"], "2 Authorization headers"),
        (lambda: [], "0 Authorization headers"),
    ],
)
async def test_what_is_no_key_of_ours_is_refused_and_never_logged(
    tmp_path: Path, file: KeysFile, server: KeyServer, log: list[str], make: Callable[[], list[str]], reason: str
) -> None:
    google = server.settings()
    tokens = GoogleTokens(google, KeySet(google.certificates_url, 10, file.clock), file.clock)
    async with open_api(tmp_path, trust=KeyedCalls(file.open(), tokens)) as api:
        response = await api.http.post(EDIT, headers=[("Authorization", value) for value in make()])
    assert (response.status_code, response.json()["detail"]) == (401, TOLD[Unauthenticated])
    (line,) = log
    assert reason in line
    assert KEY not in line
    assert OTHER not in line


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with serve_keys() as server:
        yield server


async def test_a_key_is_good_until_it_expires(file: KeysFile) -> None:
    file.write(row(expires_at="2027-01-15T09:00:00+01:00"))  # NOW is 08:00 UTC of that day
    keys = file.open()
    file.clock.time = NOW - 0.5
    assert keys.find(KEY).name == "shop"
    file.clock.time = NOW
    with pytest.raises(Unauthenticated, match="of shop has expired"):
        keys.find(KEY)


async def test_two_keys_of_one_name_are_one_caller(file: KeysFile) -> None:
    file.write(row(), row(key=OTHER))
    trust = KeyedCalls(file.open(), LocalTrust())
    assert {(await trust.verify_caller(connect(f"Bearer {key}"))).id for key in (KEY, OTHER)} == {"key:shop"}


async def test_tokens_and_keys_are_taken_side_by_side(file: KeysFile, server: KeyServer) -> None:
    callers = file.settings(users={CALLER: ["a*"]}, requests_per_minute=7, concurrent_jobs=3)
    settings = Settings(env="gcp", google=server.settings(), callers=callers)
    trust = choose_trust(settings, file.clock, {})
    backend = await trust.verify_caller(connect(f"Bearer {BACKEND.token()}"))
    assert (backend.id, backend.allowance) == (CALLER, Allowance(("a*",), 7, 3))
    assert (await trust.verify_caller(connect(f"Bearer {KEY}"))).id == "key:shop"
    assert await trust.verify_sender(connect(f"Bearer {PUSHER.token()}"))
    with pytest.raises(Unauthenticated):  # a key is no word of the push subscription's
        await trust.verify_sender(connect(f"Bearer {KEY}"))


async def test_where_there_are_keys_only_a_call_without_one_is_told_to_bring_it(
    file: KeysFile, server: KeyServer
) -> None:
    google = server.settings(allowed_callers=(), caller_audience="")
    trust = choose_trust(Settings(env="gcp", google=google, callers=file.settings()), file.clock, {})
    for values in ([], [f"Bearer {BACKEND.token()}"]):
        with pytest.raises(Unauthenticated, match="No API key came"):
            await trust.verify_caller(connect(*values))
    assert server.hits == 0


async def test_this_machine_needs_no_key_and_may_have_one(file: KeysFile) -> None:
    trust = choose_trust(Settings(callers=file.settings()), file.clock, {})
    for values in ([], ["Bearer sk-whatever-a-client-insists-on"]):
        local = await trust.verify_caller(connect(*values))
        assert (local.id, local.allowance) == ("local", UNBOUNDED)
    assert (await trust.verify_caller(connect(f"Bearer {KEY}"))).id == "key:shop"
    with pytest.raises(Unauthenticated):
        await trust.verify_caller(connect(f"Bearer {OTHER}"))
    with pytest.raises(Forbidden):
        await trust.verify_caller(connect(client="10.0.0.7"))


# -- whose sessions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "covered", "not_covered"),
    [
        ((), [], ["user", "*", ""]),
        (("*",), ["user", "U-_1"], []),
        (("user",), ["user"], ["User", "user1", "auser"]),
        (("shop-*", "x"), ["shop-", "shop-1-2", "x"], ["shop", "a-shop-1", "xx"]),
        (("*-a*b",), ["-ab", "1-a-b"], ["ab", "-a", "-abc"]),
    ],
)
def test_patterns_of_user_ids(patterns: tuple[str, ...], covered: list[str], not_covered: list[str]) -> None:
    allowance = Allowance(patterns)
    assert [user for user in [*covered, *not_covered] if allowance.covers(user)] == covered


async def test_a_caller_touches_the_sessions_of_its_users_only(tmp_path: Path, file: KeysFile) -> None:
    file.write(row(users=["us*"]), row("other", OTHER, users=["nobody", "user-*"]))
    async with open_api(tmp_path, trust=KeyedCalls(file.open(), LocalTrust())) as api:
        await api.bench.put_session()
        for method in ("POST", "GET", "DELETE"):
            response = await api.http.request(method, EDIT, headers={"Authorization": f"Bearer {OTHER}"})
            body = response.json()
            assert (response.status_code, body["type"]) == (403, "urn:pawfect:problem:forbidden")
            assert body["detail"] == "key:other may not touch the sessions of user user."
        document = (await api.http.get(EDIT)).json()
        assert (document["userId"], document["job"]) == (SESSION.user_id, None)
        response = await api.http.post(EDIT, headers={"Authorization": f"Bearer {KEY}"})
        assert (response.status_code, response.json()["processingStatus"]) == (200, "completed")


# -- the file ------------------------------------------------------------------------------------------------------

BROKEN: dict[str, tuple[str, str]] = {
    "no JSON": ("[{", "not a JSON list"),
    "empty": ("", "not a JSON list"),
    "an object": (json.dumps(row()), "not a JSON list"),
    "a row that is none": ('["shop"]', "not a JSON list"),
    "no hash": ('[{"name": "shop"}]', "0.sha256: Field required."),
    "the key itself": (json.dumps([{"name": "shop", "sha256": KEY}]), "0.sha256: String should match"),
    "a hash in capitals": (json.dumps([{"name": "shop", "sha256": "A" * 64}]), "0.sha256: String should match"),
    "a name with a slash": (json.dumps([row("a/b")]), "0.name: String should match"),
    "a user pattern with more": (json.dumps([row(users=["[a-z]"])]), "0.users.0: must be 1 to 128 letters"),
    "users a string": (json.dumps([row(users="*")]), "0.users: Input should be a valid array."),
    "no requests": (json.dumps([row(requests_per_minute=0)]), "0.requests_per_minute: "),
    "no jobs": (json.dumps([row(concurrent_jobs=0)]), "0.concurrent_jobs: "),
    "a time without a zone": (json.dumps([row(expires_at="2027-01-01T00:00:00")]), "0.expires_at: "),
    "an unknown field": (json.dumps([row(user=["*"])]), "0.user: Extra inputs are not permitted."),
    "one key twice": (json.dumps([row(), row("app")]), "one key in several rows: shop, app."),
    "too large": (json.dumps([row()]) + " " * 2**20, "more than 1048576 bytes."),
}


@pytest.mark.parametrize("env", ["local", "gcp"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_stops_the_start_and_shows_nothing(file: KeysFile, name: str, env: Any) -> None:
    text, words = BROKEN[name]
    file.write(text=text)
    with pytest.raises(ConfigurationError) as caught:
        check_trust(Settings(env=env, callers=file.settings()), {})
    assert "PAWFECT_CALLERS__KEYS_FILE" in caught.value.message
    assert words in caught.value.message
    assert KEY not in caught.value.message
    assert hash_key(KEY) not in caught.value.message


@pytest.mark.parametrize(("name", "words"), [("missing.json", "No such file"), ("", "Is a directory")])
def test_a_file_that_cannot_be_read_stops_the_start(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        choose_trust(Settings(callers=CallerSettings(keys_file=tmp_path / name)), HandClock(), {})


def test_a_changed_file_counts_at_once(file: KeysFile) -> None:
    keys = file.open()
    with pytest.raises(Unauthenticated):
        keys.find(OTHER)
    file.write(row("app", OTHER))
    assert keys.find(OTHER).name == "app"
    with pytest.raises(Unauthenticated, match="none of ours"):
        keys.find(KEY)


def test_a_mounted_secret_that_is_swapped_counts_at_once(tmp_path: Path, file: KeysFile) -> None:
    """As a kubelet does it: a link leads to a new folder, whose file may have the same size and time."""
    link, fresh = tmp_path / "secret.json", tmp_path / "fresh.json"
    link.symlink_to(file.path)
    keys = ApiKeys(CallerSettings(keys_file=link), file.clock)
    fresh.write_text(json.dumps([row(key=OTHER)]))
    os.utime(fresh, ns=(file.path.stat().st_mtime_ns,) * 2)
    swapped = tmp_path / "swapped"
    swapped.symlink_to(fresh)
    swapped.rename(link)
    assert keys.find(OTHER).name == "shop"
    with pytest.raises(Unauthenticated):
        keys.find(KEY)


@pytest.mark.parametrize("name", BROKEN)
def test_a_change_for_the_worse_changes_nothing_and_is_logged_once(file: KeysFile, log: list[str], name: str) -> None:
    keys = file.open()
    file.write(text=BROKEN[name][0])
    for _ in range(3):
        assert keys.find(KEY).name == "shop"
    (line,) = log
    assert BROKEN[name][1] in line
    file.write(row("mended"))
    assert keys.find(KEY).name == "mended"


def test_a_file_that_vanishes_for_a_while(file: KeysFile, log: list[str]) -> None:
    keys = file.open()
    file.path.unlink()
    for _ in range(3):
        assert keys.find(KEY).name == "shop"
    assert len(log) == 1
    file.write()
    with pytest.raises(Unauthenticated):
        keys.find(KEY)


# -- the command ---------------------------------------------------------------------------------------------------


def test_the_command_makes_a_key_that_its_row_lets_in(file: KeysFile, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--users", "a*", "b", "--concurrent-jobs", "2", "--expires-at", "2030-01-31T00:00:00Z"]
    assert command.main(["new-shop", *options]) == 0
    key, line = capsys.readouterr().out.splitlines()
    assert len(base64.urlsafe_b64decode(key.removeprefix("pk_") + "=")) == 32
    assert key not in line
    made = json.loads(line)
    file.write(row(), made)
    keys = file.open()
    found = keys.find(key)
    assert (found.name, found.users, found.concurrent_jobs, found.requests_per_minute) == (
        "new-shop",
        ("a*", "b"),
        2,
        None,
    )
    assert command.main(["new-shop"]) == 0
    assert key not in capsys.readouterr().out


@pytest.mark.parametrize(
    "options", [["Shop"], ["a b"], [""], ["shop", "--users", "a?"], ["shop", "--concurrent-jobs", "0"]]
)
def test_the_command_makes_no_key_that_no_row_could_hold(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(options) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("no key is made: ")
