"""Looking at dead letters and sending them back: on the Pub/Sub emulator, and through the embedded service."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest
from google.pubsub_v1 import PubsubMessage

from pawfect.dead_letters import StoredLetters, SubscriptionLetters
from pawfect.replay import SUBSCRIPTION, main, replay
from pawfect.resources import provision
from serve_app.google_clients import GoogleClients, make_clients
from serve_app.jobs import pubsub
from serve_app.jobs.dead_letters import DeadLetter
from serve_app.jobs.pubsub import PubsubDeadLetters
from serve_app.jobs.sqlite_database import SqliteDatabase
from serve_app.jobs.sqlite_dead_letters import SqliteDeadLetters
from serve_app.settings import Settings
from serve_app.settings_sections import GoogleSettings
from tests.api import Api, open_api
from tests.photos import make_mask
from tests.workbench import SESSION

SETTINGS = GoogleSettings()
MESSAGE = {"userId": "user", "sessionId": "session"}
SESSIONS = "sessions-seen"
HEADSHOTS = "headshots-seen"


@pytest.fixture
async def clients(emulators: Mapping[str, str]) -> AsyncIterator[GoogleClients]:
    """Everything as in production, and a subscription that sees what is published to the session topic."""
    opened = make_clients(Settings(env="gcp", project_id=f"demo-{uuid.uuid4().hex[:12]}"))
    await asyncio.to_thread(provision, opened, SETTINGS, "http://127.0.0.1:1/inpaint")
    for name, topic in ((SESSIONS, SETTINGS.topic), (HEADSHOTS, SETTINGS.headshot_topic)):
        opened.subscriber.create_subscription(request={"name": opened.subscription(name), "topic": opened.topic(topic)})
    yield opened
    await opened.close()


def open_letters(clients: GoogleClients) -> SubscriptionLetters:
    return SubscriptionLetters(
        clients.subscriber,
        clients.publisher,
        clients.subscription(SUBSCRIPTION),
        clients.topic(SETTINGS.topic),
        clients.topic(SETTINGS.headshot_topic),
        SETTINGS,
    )


def make_letter(name: str, attributes: Mapping[str, str] | None = None) -> DeadLetter:
    data = base64.b64encode(json.dumps(MESSAGE).encode()).decode()
    about = {"jobId": "edit-1", "userId": "user", "sessionId": "session", **(attributes or {})}
    return DeadLetter(name, 5.0, "mask_empty", f"Nothing is white in {name}.", data, about)


async def put(clients: GoogleClients, *letters: DeadLetter) -> None:
    place = PubsubDeadLetters(clients.publisher, clients.topic(SETTINGS.dead_letter_topic), SETTINGS)
    for letter in letters:
        await place.put(letter)


async def look(clients: GoogleClients) -> list[str]:
    letters = open_letters(clients)
    found = sorted(letter.id for letter in await letters.look())
    await letters.release()
    return found


def published(clients: GoogleClients, subscription: str = SESSIONS) -> list[PubsubMessage]:
    found = []
    name = clients.subscription(subscription)
    while batch := pubsub.pull(clients.subscriber, name, 10, 1):
        pubsub.acknowledge(clients.subscriber, name, [each.ack_id for each in batch], 10)
        found.extend(each.message for each in batch)
    return found


async def test_a_look_shows_everything_and_takes_nothing(
    clients: GoogleClients, capsys: pytest.CaptureFixture[str]
) -> None:
    await put(clients, make_letter("a"), make_letter("b"))
    for _ in range(2):
        assert await replay(open_letters(clients)) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == ["ID", "SESSION", "REASON", "MESSAGE"]
        shown = sorted(line.split(maxsplit=3) for line in lines[1:])
        assert shown == [[name, "user/session", "mask_empty", f"Nothing is white in {name}."] for name in "ab"]
    assert published(clients) == []


async def test_chosen_letters_go_back_as_they_came_and_the_others_stay(clients: GoogleClients) -> None:
    letter = make_letter("b", {"app": "x", "deliveryId": "7"})
    await put(clients, make_letter("a"), letter, letter)
    assert await replay(open_letters(clients), ["b"]) == 0
    (message,) = published(clients)
    assert json.loads(message.data) == MESSAGE
    assert dict(message.attributes) == {"app": "x", "replayOf": "b"}
    assert await look(clients) == ["a"], "both copies of b are gone"


async def test_a_headshots_letter_goes_back_to_its_own_topic(clients: GoogleClients) -> None:
    data = {"job_id": "perkie-1", "orig_bucket": "b", "orig_key": "perkie-1/original/a.jpg"}
    text = base64.b64encode(json.dumps(data).encode()).decode()
    await put(clients, DeadLetter("h", 5.0, "object_missing", "There is no photo.", text, {"jobId": "perkie-1"}))
    assert await replay(open_letters(clients), ["h"]) == 0
    assert published(clients) == []
    (message,) = published(clients, HEADSHOTS)
    assert json.loads(message.data) == data


async def test_all_go_back(clients: GoogleClients, capsys: pytest.CaptureFixture[str]) -> None:
    await put(clients, *(make_letter(f"n{i}") for i in range(12)))
    assert await replay(open_letters(clients), everything=True) == 0
    assert "12 of 12 sent back" in capsys.readouterr().out
    assert sorted(message.attributes["replayOf"] for message in published(clients)) == sorted(
        f"n{i}" for i in range(12)
    )
    assert await look(clients) == []


async def test_an_unknown_id_is_told_and_nothing_is_sent(
    clients: GoogleClients, capsys: pytest.CaptureFixture[str]
) -> None:
    await put(clients, make_letter("a"))
    assert await replay(open_letters(clients), ["zzz"]) == 1
    assert "there is no dead letter zzz" in capsys.readouterr().out
    assert published(clients) == []


async def test_a_letter_that_could_not_be_sent_stays(
    clients: GoogleClients, capsys: pytest.CaptureFixture[str]
) -> None:
    await put(clients, make_letter("a"))
    clients.publisher.delete_topic(request={"topic": clients.topic(SETTINGS.topic)})
    assert await replay(open_letters(clients), ["a"]) == 1
    assert "a: Pub/Sub did not answer" in capsys.readouterr().out
    assert await look(clients) == ["a"]


async def test_what_pubsub_gave_up_goes_back_without_its_marks(
    clients: GoogleClients, capsys: pytest.CaptureFixture[str]
) -> None:
    marks = {
        "CloudPubSubDeadLetterSourceSubscription": "session-processing-push",
        "CloudPubSubDeadLetterSourceDeliveryCount": "100",
    }
    message = PubsubMessage(data=json.dumps(MESSAGE).encode(), attributes={"reason": "the app's own", **marks})
    pubsub.publish(clients.publisher, clients.topic(SETTINGS.dead_letter_topic), message, 10)
    assert await replay(open_letters(clients), everything=True) == 0
    assert "deliveries_exhausted  Not acknowledged in 100 deliveries." in capsys.readouterr().out
    (back,) = published(clients)
    assert back.attributes.pop("replayOf")
    assert dict(back.attributes) == {"reason": "the app's own"}


async def test_a_letter_without_its_data_is_not_sent_back(
    clients: GoogleClients, capsys: pytest.CaptureFixture[str]
) -> None:
    await put(clients, DeadLetter("a", 5.0, "invalid", "No.", base64.b64encode(bytes(9_000_001)).decode()))
    assert await replay(open_letters(clients), everything=True) == 1
    assert "too large to keep" in capsys.readouterr().out
    assert published(clients) == []


async def test_the_command_works_on_the_configured_project(
    clients: GoogleClients, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await put(clients, make_letter("a"))
    monkeypatch.setenv("ENV", "gcp")
    monkeypatch.setenv("PROJECT_ID", clients.project)
    assert await asyncio.to_thread(main, ["--id", "a"]) == 0
    assert "1 of 1 sent back" in capsys.readouterr().out
    assert len(published(clients)) == 1


# -- on one machine -------------------------------------------------------------------------------------------------


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with open_api(tmp_path) as opened:
        yield opened


@pytest.fixture
def database(api: Api, tmp_path: Path) -> Iterator[SqliteDatabase]:
    opened = SqliteDatabase(tmp_path / "pawfect.db")
    yield opened
    opened.close()


async def test_an_embedded_letter_goes_through_the_service_again(
    api: Api, database: SqliteDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    await api.bench.put_session(mask=make_mask(box=None))
    await api.push(MESSAGE)
    (letter,) = await SqliteDeadLetters(database).latest(10)
    assert letter.reason == "mask_empty"
    await api.bench.put_session()
    letters = StoredLetters(database, api.http)
    assert await replay(letters, [letter.id]) == 0
    assert "user/session  mask_empty" in capsys.readouterr().out
    document = await api.bench.backend.read(SESSION)
    assert document is not None
    assert document["processingStatus"] == "completed"
    assert await letters.look() == []


async def test_an_embedded_letter_that_fails_again_is_a_new_one(api: Api, database: SqliteDatabase) -> None:
    await api.bench.put_session(mask=make_mask(box=None))
    await api.push(MESSAGE)
    letters = StoredLetters(database, api.http)
    (before,) = await letters.look()
    assert await replay(letters, everything=True) == 0
    (after,) = await letters.look()
    assert before.id != after.id
    assert after.reason == "mask_empty"


def test_without_a_service_the_embedded_letters_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = SqliteDatabase(tmp_path / "pawfect.db")
    asyncio.run(SqliteDeadLetters(database).put(make_letter("a")))
    database.close()
    command = ["--data", str(tmp_path), "--url", "http://127.0.0.1:1"]
    assert main([*command, "--all"]) == 1
    assert "a: The service at http://127.0.0.1:1 did not answer: ConnectError." in capsys.readouterr().out
    assert main(command) == 0
    assert "Nothing is white in a." in capsys.readouterr().out


def test_a_wrong_data_folder_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path)]) == 2
    assert "There is no database" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
