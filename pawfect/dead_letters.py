"""The dead letters as a person meets them: looked at, and sent back where they came from.

On Google Cloud they wait in a pull subscription of the dead-letter topic and go back to the session topic; on one
machine they lie in the service's database and go back as pushes to the running service. A letter is taken away only
after it has been sent back. Sending one twice does no harm: a job that stands is not done again.
"""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import httpx
from google.pubsub_v1 import PublisherClient, PubsubMessage, ReceivedMessage, SubscriberClient

from pawfect.client import PUSH_S
from serve_app.errors import StoreUnavailable
from serve_app.jobs import pubsub
from serve_app.jobs.dead_letters import DeadLetter
from serve_app.jobs.pubsub import FORWARDED, FORWARDED_ATTEMPTS, FORWARDING_PREFIX, OWN_ATTRIBUTES
from serve_app.jobs.sqlite_database import SqliteDatabase
from serve_app.jobs.sqlite_dead_letters import SqliteDeadLetters
from serve_app.settings_sections import GoogleSettings

MAX_LETTERS = 1000
"""Looked at in one go; the rest shows once these are replayed."""
PULL_WAIT_S = 3.0
"""After so long without one, the subscription is taken for empty."""
HOLD_S = 120
"""While it lasts nobody else is shown the letters that this look has pulled."""
CONCURRENT_PUSHES = 4


@dataclass(frozen=True, slots=True)
class Letter:
    """`data` and `attributes` are those of the original message. `handles` are the place's own, to take it away."""

    id: str
    session: str
    reason: str
    message: str
    data: bytes
    attributes: Mapping[str, str]
    handles: tuple[str, ...] = ()
    replayable: bool = True

    @property
    def asks_for_headshot(self) -> bool:
        """Told by its data: what a person sends back goes where such messages come from."""
        try:
            values = json.loads(self.data)
        except (ValueError, RecursionError):
            return False
        return isinstance(values, Mapping) and "orig_key" in values


class Source(Protocol):
    """All raise StoreUnavailable."""

    async def look(self) -> Sequence[Letter]:
        """What is there, each letter once."""

    async def send_back(self, letter: Letter) -> None:
        """Send the letter where it came from, then take it away."""

    async def release(self) -> None:
        """Leave what was not sent back as it was."""


class SubscriptionLetters:
    """`subscription` and the topics are full names."""

    def __init__(
        self,
        subscriber: SubscriberClient,
        publisher: PublisherClient,
        subscription: str,
        topic: str,
        headshot_topic: str,
        settings: GoogleSettings,
    ) -> None:
        self._subscriber = subscriber
        self._publisher = publisher
        self._subscription = subscription
        self._topic = topic
        self._headshot_topic = headshot_topic
        self._held: set[str] = set()
        self._timeout_s = settings.timeout_s

    async def look(self) -> Sequence[Letter]:
        found: dict[str, Letter] = {}
        while len(self._held) < MAX_LETTERS:
            batch = await asyncio.to_thread(pubsub.pull, self._subscriber, self._subscription, 100, PULL_WAIT_S)
            if not batch:
                break
            ack_ids = [received.ack_id for received in batch]
            await asyncio.to_thread(self._hold, ack_ids, HOLD_S)
            self._held.update(ack_ids)
            for received in batch:
                _add(found, _open(received))
        return list(found.values())

    async def send_back(self, letter: Letter) -> None:
        attributes = pubsub.fit_attributes(letter.attributes, {"replayOf": letter.id})
        message = PubsubMessage(data=letter.data, attributes=attributes)
        topic = self._headshot_topic if letter.asks_for_headshot else self._topic
        await asyncio.to_thread(pubsub.publish, self._publisher, topic, message, self._timeout_s)
        await asyncio.to_thread(
            pubsub.acknowledge, self._subscriber, self._subscription, letter.handles, self._timeout_s
        )
        self._held.difference_update(letter.handles)

    async def release(self) -> None:
        if self._held:
            await asyncio.to_thread(self._hold, list(self._held), 0)
            self._held.clear()

    def _hold(self, ack_ids: Sequence[str], seconds: int) -> None:
        pubsub.hold(self._subscriber, self._subscription, ack_ids, seconds, self._timeout_s)


class StoredLetters:
    """The embedded dead letters of a service on this machine, to which `http` speaks."""

    def __init__(self, database: SqliteDatabase, http: httpx.AsyncClient) -> None:
        self._letters = SqliteDeadLetters(database)
        self._http = http
        self._places = asyncio.Semaphore(CONCURRENT_PUSHES)

    async def look(self) -> Sequence[Letter]:
        return [_describe(letter) for letter in await self._letters.latest(MAX_LETTERS)]

    async def send_back(self, letter: Letter) -> None:
        message = {
            "messageId": f"replay-{uuid.uuid4()}",
            "data": base64.b64encode(letter.data).decode(),
            "attributes": {**letter.attributes, "replayOf": letter.id},
        }
        envelope = {"message": message, "subscription": "projects/local/subscriptions/session-processing-push"}
        async with self._places:
            try:
                path = "/headshot/push" if letter.asks_for_headshot else "/inpaint"
                answer = await self._http.post(path, json=envelope, timeout=PUSH_S)
            except httpx.TransportError as error:
                raise StoreUnavailable(
                    f"The service at {self._http.base_url} did not answer: {type(error).__name__}."
                ) from error
        if answer.status_code != httpx.codes.NO_CONTENT:
            raise StoreUnavailable(f"The service answered {answer.status_code} for {letter.id}; it stays where it is.")
        await self._letters.remove(letter.id)

    async def release(self) -> None:
        """Nothing is held."""


def _add(found: dict[str, Letter], letter: Letter) -> None:
    """The same letter may be there several times; replaying it once takes all of them away."""
    earlier = found[letter.id].handles if letter.id in found else ()
    found[letter.id] = replace(letter, handles=earlier + letter.handles)


def _open(received: ReceivedMessage) -> Letter:
    attributes = dict(received.message.attributes)
    forwarded = FORWARDED in attributes
    reason, message = attributes.get("reason", "unknown"), attributes.get("message", "")
    if forwarded:
        reason = "deliveries_exhausted"
        message = f"Not acknowledged in {attributes.get(FORWARDED_ATTEMPTS, 'all its')} deliveries."
    original = {name: value for name, value in attributes.items() if not name.startswith(FORWARDING_PREFIX)}
    if not forwarded:  # a message that Pub/Sub gave up has none of ours, though some may have the same names
        original = {name: value for name, value in original.items() if name not in OWN_ATTRIBUTES}
    return Letter(
        id=received.message.message_id if forwarded else attributes.get("id", received.message.message_id),
        session=_name_session(attributes, received.message.data),
        reason=reason,
        message=message,
        data=received.message.data,
        attributes=original,
        handles=(received.ack_id,),
        replayable="dataDropped" not in attributes,
    )


def _describe(letter: DeadLetter) -> Letter:
    data = pubsub.decode_data(letter.data)
    original = {name: value for name, value in letter.attributes.items() if name not in OWN_ATTRIBUTES}
    return Letter(
        letter.id, _name_session(letter.attributes, data), letter.reason, letter.message, data, original, (letter.id,)
    )


def _name_session(attributes: Mapping[str, str], data: bytes) -> str:
    """`user/session` from our attributes, else from the data; `-` where neither tells."""
    values: Any = attributes
    if "sessionId" not in attributes:
        try:
            values = json.loads(data)
        except (ValueError, RecursionError):
            values = None
    ids = (values.get("userId"), values.get("sessionId")) if isinstance(values, Mapping) else (None, None)
    return "/".join(map(str, ids)) if all(isinstance(part, str) for part in ids) else "-"
