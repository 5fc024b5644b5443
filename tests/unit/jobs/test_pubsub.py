"""Dead letters on the real Pub/Sub emulator."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import uuid
from collections.abc import AsyncIterator, Mapping

import pytest
from google.pubsub_v1 import PubsubMessage

from serve_app.errors import StoreUnavailable
from serve_app.google_clients import GoogleClients, make_clients
from serve_app.jobs import pubsub
from serve_app.jobs.dead_letters import DeadLetter
from serve_app.jobs.pubsub import (
    MAX_ATTRIBUTES,
    MAX_DATA_BYTES,
    MAX_VALUE_BYTES,
    ExhaustedMessage,
    ExhaustedMessages,
    PubsubDeadLetters,
    cut,
    fit_attributes,
)
from serve_app.settings import Settings
from serve_app.settings_sections import GoogleSettings

SETTINGS = GoogleSettings()
ACK_DEADLINE_S = 2
"""Below the 10 s that the real Pub/Sub asks for; the emulator takes it."""
SERVICE = SETTINGS.dead_letter_subscription


@pytest.fixture
async def clients(emulators: Mapping[str, str]) -> AsyncIterator[GoogleClients]:
    """With the topic of the dead letters and the service's subscription, in a project of its own."""
    opened = make_clients(Settings(env="gcp", project_id=f"demo-{uuid.uuid4().hex[:12]}"))
    topic = opened.topic(SETTINGS.dead_letter_topic)
    opened.publisher.create_topic(request={"name": topic})
    opened.subscriber.create_subscription(
        request={"name": opened.subscription(SERVICE), "topic": topic, "ack_deadline_seconds": ACK_DEADLINE_S}
    )
    yield opened
    await opened.close()


@pytest.fixture
def letters(clients: GoogleClients) -> PubsubDeadLetters:
    return PubsubDeadLetters(clients.publisher, clients.topic(SETTINGS.dead_letter_topic), SETTINGS)


@pytest.fixture
def exhausted(clients: GoogleClients) -> ExhaustedMessages:
    return ExhaustedMessages(clients.subscriber, clients.subscription(SERVICE), SETTINGS)


def make_letter(data: bytes = b'{"userId": "u"}', **changes: object) -> DeadLetter:
    given = {
        "id": "edit-1-5.000",
        "at": 5.0,
        "reason": "mask_empty",
        "message": "Nothing is white.",
        "data": base64.b64encode(data).decode(),
        "attributes": {"jobId": "edit-1", "sessionId": "s", "userId": "u"},
        **changes,
    }
    return DeadLetter(**given)  # type: ignore[arg-type]


def pull(clients: GoogleClients) -> PubsubMessage:
    (received,) = pubsub.pull(clients.subscriber, clients.subscription(SERVICE), 10, 10)
    return received.message


async def test_a_letter_carries_the_original_data_and_the_reason(
    letters: PubsubDeadLetters, clients: GoogleClients
) -> None:
    data = b'{"userId": "u", "sessionId": "s"}\xff'
    await letters.put(make_letter(data))
    message = pull(clients)
    assert message.data == data
    assert dict(message.attributes) == {
        "id": "edit-1-5.000",
        "reason": "mask_empty",
        "message": "Nothing is white.",
        "jobId": "edit-1",
        "sessionId": "s",
        "userId": "u",
    }


async def test_data_that_is_no_base64_goes_out_as_it_is(letters: PubsubDeadLetters, clients: GoogleClients) -> None:
    await letters.put(dataclasses.replace(make_letter(), data="not base64 – ä"))
    assert pull(clients).data == "not base64 – ä".encode()


async def test_a_message_of_any_length_fits(letters: PubsubDeadLetters, clients: GoogleClients) -> None:
    await letters.put(make_letter(message="ä" * 2000))
    assert pull(clients).attributes["message"] == "ä" * (MAX_VALUE_BYTES // 2)


async def test_data_too_large_for_a_letter_is_left_out_and_said_so(
    letters: PubsubDeadLetters, clients: GoogleClients
) -> None:
    await letters.put(make_letter(bytes(MAX_DATA_BYTES + 1)))
    message = pull(clients)
    assert (message.data, message.attributes["dataDropped"]) == (b"", str(MAX_DATA_BYTES + 1))


async def test_the_originals_attributes_never_crowd_out_or_fake_ours(
    letters: PubsubDeadLetters, clients: GoogleClients
) -> None:
    original = {"reason": "fake", "CloudPubSubDeadLetterSourceSubscription": "old", "googclient_x": "y", "": "z"}
    original |= {f"app-{i}": "x" for i in range(200)}
    await letters.put(make_letter(attributes={**original, "messageId": "7"}))
    attributes = pull(clients).attributes
    assert len(attributes) == MAX_ATTRIBUTES
    assert (attributes["reason"], attributes["messageId"], attributes["app-0"]) == ("mask_empty", "7", "x")
    assert not attributes.keys() & {"CloudPubSubDeadLetterSourceSubscription", "googclient_x", ""}


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [("abc", 3, "abc"), ("abcd", 3, "abc"), ("aä", 2, "a"), ("🐕🐕", 7, "🐕"), ("", 0, "")],
)
def test_a_cut_ends_between_characters(text: str, most: int, expected: str) -> None:
    assert cut(text, most) == expected


def test_later_attributes_go_before_earlier_ones() -> None:
    assert fit_attributes({"a": "1", "b": "2"}, {"a": "3"}) == {"a": "3", "b": "2"}


async def test_a_topic_that_is_not_there_is_an_outage(clients: GoogleClients) -> None:
    letters = PubsubDeadLetters(clients.publisher, clients.topic("none-such"), SETTINGS)
    with pytest.raises(StoreUnavailable, match="topics/none-such: NotFound"):
        await letters.put(make_letter())


async def test_an_emulator_that_is_not_there_is_an_outage(
    emulators: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", "127.0.0.1:1")
    clients = make_clients(Settings(env="gcp", project_id="demo"))
    settings = GoogleSettings(timeout_s=0.5)
    with pytest.raises(StoreUnavailable, match="ServiceUnavailable"):
        await PubsubDeadLetters(clients.publisher, clients.topic("dead"), settings).put(make_letter())
    with pytest.raises(StoreUnavailable, match="ServiceUnavailable"):
        await ExhaustedMessages(clients.subscriber, clients.subscription("dead"), settings).drain(_refuse)
    await clients.close()


async def _refuse(message: ExhaustedMessage) -> None:
    raise AssertionError(f"handled {message}")


async def test_nothing_exhausted_is_no_error(exhausted: ExhaustedMessages) -> None:
    assert await exhausted.drain(_refuse) == 0


async def give_up(clients: GoogleClients, data: bytes, attributes: Mapping[str, str]) -> None:
    """Let Pub/Sub forward a message itself, after five refused deliveries."""
    topic, dead = clients.topic("sessions"), clients.topic(SETTINGS.dead_letter_topic)
    subscription = clients.subscription("sessions-push")
    clients.publisher.create_topic(request={"name": topic})
    policy = {"dead_letter_topic": dead, "max_delivery_attempts": 5}
    clients.subscriber.create_subscription(request={"name": subscription, "topic": topic, "dead_letter_policy": policy})
    message = PubsubMessage(data=data, attributes=attributes)
    await asyncio.to_thread(pubsub.publish, clients.publisher, topic, message, 10)
    for _ in range(5):
        (received,) = await asyncio.to_thread(pubsub.pull, clients.subscriber, subscription, 1, 10)
        pubsub.hold(clients.subscriber, subscription, [received.ack_id], 0, 10)
    # The emulator notices with the delivery that would be one too many.
    assert pubsub.pull(clients.subscriber, subscription, 1, 1) == []


async def drain_until(exhausted: ExhaustedMessages, count: int) -> list[ExhaustedMessage]:
    """Several times, as the service does: forwarding takes the emulator a moment."""
    seen: list[ExhaustedMessage] = []

    async def note(message: ExhaustedMessage) -> None:
        seen.append(message)

    async with asyncio.timeout(30):
        while len(seen) < count:
            await exhausted.drain(note)
    return seen


async def test_what_pubsub_gave_up_is_handed_over_once_and_ours_is_skipped(
    letters: PubsubDeadLetters, exhausted: ExhaustedMessages, clients: GoogleClients
) -> None:
    await letters.put(make_letter())
    await give_up(clients, b'{"userId": "u"}', {"app": "x", "reason": "the app's own"})
    (message,) = await drain_until(exhausted, 1)
    assert base64.b64decode(message.data) == b'{"userId": "u"}'
    assert message.attributes["app"] == "x"
    assert message.attributes["CloudPubSubDeadLetterSourceSubscription"] == "sessions-push"
    assert message.attributes["CloudPubSubDeadLetterSourceDeliveryCount"] == "5"
    assert not _left(clients), "both were acknowledged"


def _left(clients: GoogleClients) -> int:
    """Messages not acknowledged: they are given out again after their ack deadline."""
    return len(pubsub.pull(clients.subscriber, clients.subscription(SERVICE), 10, 2 * ACK_DEADLINE_S))


async def test_what_could_not_be_handled_comes_again(exhausted: ExhaustedMessages, clients: GoogleClients) -> None:
    await give_up(clients, b"1", {})
    failures: list[Exception] = [StoreUnavailable("Firestore is away."), RuntimeError("a defect")]
    handled = []

    async def handle(message: ExhaustedMessage) -> None:
        if failures:
            raise failures.pop(0)
        handled.append(base64.b64decode(message.data))

    with pytest.raises(StoreUnavailable, match="Firestore is away"):
        await exhausted.drain(handle)
    counts = [await exhausted.drain(handle)]
    async with asyncio.timeout(30):
        while not handled:
            counts.append(await exhausted.drain(handle))
    assert handled == [b"1"]
    assert (failures, sum(counts)) == ([], 1)
