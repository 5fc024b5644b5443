"""Dead letters on Pub/Sub: writing ours, and hearing of messages that Pub/Sub itself gave up.

Each call ends within `timeout_s`, retries included. Publishing is retried on what may pass (unavailable, aborted,
quota, internal, unknown, a deadline), with backoff from 0.25 to 2 s; a repeat can put the same letter there twice,
under the same `id`. Calls run on threads, so the event loop never waits.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from google.api_core import exceptions as google_errors
from google.api_core.retry import Retry, if_exception_type
from google.auth.exceptions import GoogleAuthError
from google.pubsub_v1 import PublisherClient, PubsubMessage, ReceivedMessage, SubscriberClient

from serve_app.errors import StoreUnavailable
from serve_app.jobs.dead_letters import DeadLetter
from serve_app.settings_sections import GoogleSettings

log = logging.getLogger(__name__)

# Limits of one message, https://cloud.google.com/pubsub/quotas#resource_limits. The emulator enforces none of them.
MAX_ATTRIBUTES = 100
MAX_KEY_BYTES = 256
MAX_VALUE_BYTES = 1024
MAX_DATA_BYTES = 9_000_000
"""Below the 10 MB of a whole request; a letter that were refused for its size would come back for ever."""

RESERVED_PREFIX = "goog"
"""Attribute names that Pub/Sub keeps for itself."""
FORWARDING_PREFIX = "CloudPubSubDeadLetter"
"""Of the attributes that Pub/Sub adds to a message it gives up, https://cloud.google.com/pubsub/docs/handling-failures."""
FORWARDED = FORWARDING_PREFIX + "SourceSubscription"
FORWARDED_ATTEMPTS = FORWARDING_PREFIX + "SourceDeliveryCount"

OWN_ATTRIBUTES = frozenset(
    {
        "id",
        "reason",
        "message",
        "dataDropped",
        "jobId",
        "userId",
        "sessionId",
        "attempts",
        "deliveryId",
        "messageId",
    }
)
"""What a letter carries besides the attributes of the message it is about."""

PULL_WAIT_S = 1.0
"""How long a pull waits for a first message; Pub/Sub has no better way to say that there is none."""

_PASSING = if_exception_type(
    google_errors.Aborted,
    google_errors.DeadlineExceeded,
    google_errors.InternalServerError,
    google_errors.ResourceExhausted,
    google_errors.ServiceUnavailable,
    google_errors.Unknown,
)


class PubsubDeadLetters:
    """`topic` is the full name, `projects/…/topics/…`. A letter's data is the original message's, byte for byte."""

    def __init__(self, publisher: PublisherClient, topic: str, settings: GoogleSettings) -> None:
        self.topic = topic
        self._publisher = publisher
        self._timeout_s = settings.timeout_s

    async def put(self, letter: DeadLetter) -> bool:
        await asyncio.to_thread(publish, self._publisher, self.topic, _write(letter), self._timeout_s)
        return True


@dataclass(frozen=True, slots=True)
class ExhaustedMessage:
    """A message that Pub/Sub gave up. Its `id` is a new one, which no delivery ever had. `data` is base64."""

    id: str
    data: str
    attributes: Mapping[str, str]


class ExhaustedMessages:
    """What Pub/Sub forwarded after the push subscription's max_delivery_attempts. `subscription` is the full name of a
    pull subscription on the dead-letter topic that nobody else reads."""

    def __init__(self, subscriber: SubscriberClient, subscription: str, settings: GoogleSettings) -> None:
        self._subscriber = subscriber
        self._subscription = subscription
        self._timeout_s = settings.timeout_s

    async def drain(self, handle: Callable[[ExhaustedMessage], Awaitable[None]], limit: int = 50) -> int:
        """Pull once, and acknowledge each message after `handle` has returned; our own letters are acknowledged unseen.
        Returns how many were handled; waits about PULL_WAIT_S when there is nothing.

        A message may come more than once. One whose handling raises comes again after the subscription's ack deadline.
        Raises StoreUnavailable, also when `handle` does, which leaves the rest for the next time.
        """
        pulled = await asyncio.to_thread(
            pull, self._subscriber, self._subscription, limit, min(PULL_WAIT_S, self._timeout_s)
        )
        await self._acknowledge([each.ack_id for each in pulled if FORWARDED not in each.message.attributes])
        handled = 0
        for received in pulled:
            if FORWARDED not in received.message.attributes:
                continue
            message = received.message
            try:
                await handle(
                    ExhaustedMessage(
                        message.message_id, base64.b64encode(message.data).decode(), dict(message.attributes)
                    )
                )
            except StoreUnavailable:
                raise
            except Exception:
                log.exception("defect in handling an exhausted message", extra={"delivery": message.message_id})
                continue
            await self._acknowledge([received.ack_id])
            handled += 1
        return handled

    async def _acknowledge(self, ack_ids: Sequence[str]) -> None:
        if ack_ids:
            await asyncio.to_thread(acknowledge, self._subscriber, self._subscription, ack_ids, self._timeout_s)


def publish(publisher: PublisherClient, topic: str, message: PubsubMessage, timeout_s: float) -> str:
    """The id Pub/Sub gave the message. Raises StoreUnavailable."""
    with _translated(topic):
        request = {"topic": topic, "messages": [message]}
        answer = publisher.publish(request=request, retry=_retrying(timeout_s), timeout=timeout_s)
        return str(answer.message_ids[0])


def pull(subscriber: SubscriberClient, subscription: str, limit: int, wait_s: float) -> Sequence[ReceivedMessage]:
    """What is waiting, nothing after `wait_s`; not necessarily all. A pull is not retried: the next one does that.
    Raises StoreUnavailable."""
    with _translated(subscription):
        try:
            request = {"subscription": subscription, "max_messages": limit}
            return list(subscriber.pull(request=request, retry=None, timeout=wait_s).received_messages)
        except google_errors.DeadlineExceeded:
            return []


def acknowledge(subscriber: SubscriberClient, subscription: str, ack_ids: Sequence[str], timeout_s: float) -> None:
    """Raises StoreUnavailable; the messages come again then."""
    with _translated(subscription):
        request = {"subscription": subscription, "ack_ids": list(ack_ids)}
        subscriber.acknowledge(request=request, retry=_retrying(timeout_s), timeout=timeout_s)


def hold(
    subscriber: SubscriberClient, subscription: str, ack_ids: Sequence[str], seconds: int, timeout_s: float
) -> None:
    """Keep pulled messages from others for so many seconds, up to 600; 0 gives them back at once.
    Raises StoreUnavailable."""
    with _translated(subscription):
        request = {"subscription": subscription, "ack_ids": list(ack_ids), "ack_deadline_seconds": seconds}
        subscriber.modify_ack_deadline(request=request, retry=_retrying(timeout_s), timeout=timeout_s)


def fit_attributes(*layers: Mapping[str, str]) -> dict[str, str]:
    """As many as a message may have, the later layers first; values are cut, names that cannot be are left out."""
    fitted: dict[str, str] = {}
    for layer in reversed(layers):
        for name, value in layer.items():
            usable = 0 < len(name.encode()) <= MAX_KEY_BYTES and not name.startswith(RESERVED_PREFIX)
            if usable and name not in fitted and len(fitted) < MAX_ATTRIBUTES:
                fitted[name] = cut(value, MAX_VALUE_BYTES)
    return fitted


def cut(text: str, max_bytes: int) -> str:
    """The longest beginning that has at most so many bytes in UTF-8, ending between two characters."""
    return text.encode(errors="replace")[:max_bytes].decode(errors="ignore")


def _write(letter: DeadLetter) -> PubsubMessage:
    data = decode_data(letter.data)
    dropped = {"dataDropped": str(len(data))} if len(data) > MAX_DATA_BYTES else {}
    described = {"id": letter.id, "reason": letter.reason, "message": letter.message}
    about = {name: value for name, value in letter.attributes.items() if not name.startswith(FORWARDING_PREFIX)}
    ours = {name: about.pop(name) for name in OWN_ATTRIBUTES & about.keys()}
    attributes = fit_attributes(about, ours, {**described, **dropped})
    return PubsubMessage(data=b"" if dropped else data, attributes=attributes)


def _retrying(timeout_s: float) -> Retry:
    return Retry(predicate=_PASSING, initial=0.25, maximum=2.0, timeout=timeout_s)


def decode_data(data: str) -> bytes:
    """A push carries its data as base64; what is not goes out as it came."""
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return data.encode(errors="replace")


@contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except (google_errors.GoogleAPIError, GoogleAuthError) as error:
        log.warning("pubsub: %s", error, extra={"resource": name})
        cause = error.cause if isinstance(error, google_errors.RetryError) and error.cause is not None else error
        raise StoreUnavailable(f"Pub/Sub did not answer for {name}: {type(cause).__name__}.") from error
