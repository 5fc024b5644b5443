"""A Pub/Sub push: envelope → order, and the order's outcome → the status that acknowledges it or not."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ingress.problems import describe_validation
from ingress.schemas import ID_RULE, PRIORITIES, PushEnvelope, SessionMessage
from serve_app.errors import InvalidEnvelope, InvalidMessage
from serve_app.jobs.dead_letters import DeadLetter
from serve_app.jobs.model import Job, Session
from serve_app.jobs.service import EditOrder

Message = TypeVar("Message", bound=BaseModel)

EXAMPLE = f'an object with "userId" and "sessionId", each {ID_RULE}, and optional parameters'
ACKNOWLEDGED = 204
REDELIVER = 503
MAX_DATA_CHARACTERS = 64 * 2**10
"""A session's ids and parameters take a few thousand; what a job carries is written with every change of it."""


@dataclass(frozen=True, slots=True)
class Push:
    """A delivery that is an envelope; its data may still be anything. `published_at` is a Unix time."""

    message_id: str
    published_at: float | None
    data: str
    attributes: dict[str, str]


def open_envelope(body: bytes) -> Push:
    """Raises InvalidEnvelope: such a body does not come from a subscription, and is answered 400."""
    try:
        envelope = PushEnvelope.model_validate_json(body)
    except ValidationError as error:
        raise InvalidEnvelope(
            "The body is not a Pub/Sub push envelope "
            f'({{"message": {{"data", "messageId", …}}, "subscription"}}): {describe_validation(error.errors())}'
        ) from None
    message = envelope.message
    return Push(message.messageId, _parse_time(message.publishTime), message.data, message.attributes)


def read_message(push: Push, kind: type[Message], example: str) -> Message:
    """Raises InvalidMessage, naming what is wrong with the data; `example` shows what is accepted."""
    if len(push.data) > MAX_DATA_CHARACTERS:
        raise InvalidMessage(
            f"The message's data has {len(push.data)} characters of base64; at most {MAX_DATA_CHARACTERS} are accepted."
        )
    values = _decode(push.data, example)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InvalidMessage(f"The message cannot be used: {describe_validation(error.errors())}") from None


def read_order(push: Push) -> EditOrder:
    """Raises InvalidMessage, naming what is wrong with the data."""
    message = read_message(push, SessionMessage, EXAMPLE)
    return EditOrder(
        session=Session(message.userId, message.sessionId),
        delivery=push.message_id,
        message=push.data,
        published_at=push.published_at,
        prompt=message.prompt,
        steps=message.steps,
        guidance_scale=message.guidance_scale,
        seed=message.seed,
        quality=message.quality,
        priority=PRIORITIES[message.priority],
    )


def describe_refusal(push: Push, error: InvalidMessage, now: float) -> DeadLetter:
    return DeadLetter(
        id=f"push-{push.message_id}",
        at=now,
        reason=error.code,
        message=error.message,
        data=push.data,
        attributes={**push.attributes, "messageId": push.message_id},
    )


def acknowledge(job: Job | None) -> int:
    """Whatever a finished job's outcome, its message is done with; one still under way comes again."""
    return REDELIVER if job is None or not job.status.is_final else ACKNOWLEDGED


def _decode(data: str, example: str) -> dict[str, Any]:
    try:
        values = json.loads(base64.b64decode(data, validate=True))
    except (binascii.Error, UnicodeDecodeError, ValueError, RecursionError):
        raise InvalidMessage(f"The message's data is not base64 of JSON; send {example}.") from None
    if not isinstance(values, dict):
        raise InvalidMessage(f"The message's data is a JSON {type(values).__name__}; send {example}.")
    return values


def _parse_time(text: str | None) -> float | None:
    """RFC 3339 to a Unix time; None for nothing or nonsense, which only costs the measurement of the way here."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
