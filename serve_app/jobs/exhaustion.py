"""Messages that Pub/Sub gave up: their sessions must not look as if somebody were still working on them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Protocol

from serve_app.errors import StoreUnavailable
from serve_app.jobs.model import HEADSHOT_ID_PATTERN, ID_PATTERN, Session
from serve_app.jobs.session_view import Document
from serve_app.jobs.store import JobStore

log = logging.getLogger(__name__)

INTERVAL_S = 30.0
"""How often the dead-letter topic is looked at; what arrives there has waited for hours."""
PUBLISH_TIME = "CloudPubSubDeadLetterSourceTopicPublishTime"
"""Attribute that Pub/Sub adds when it gives a message up: when that was published, RFC 3339."""
SENTENCE = "The edit was asked for, but the request could not be delivered; publish the session again."


SENTENCE_OF_HEADSHOT = "The headshot was asked for, but the request could not be delivered; ask for it again."


class Message(Protocol):
    """`data` is base64 of what was published."""

    @property
    def id(self) -> str: ...

    @property
    def data(self) -> str: ...

    @property
    def attributes(self) -> Mapping[str, str]: ...


class Messages(Protocol):
    async def drain(self, handle: Callable[[Any], Awaitable[None]]) -> int: ...


class Exhaustion:
    """A message that became a job needs nothing: accepted jobs end without any delivery. One that never did is shown
    in its session as failed."""

    def __init__(
        self, messages: Messages, store: JobStore, refuse_headshot: Callable[[str, str], Awaitable[None]]
    ) -> None:
        """`refuse_headshot` shows in the document of a job (by id) why there is none, unless there is one."""
        self._messages = messages
        self._store = store
        self._refuse_headshot = refuse_headshot

    async def run(self) -> None:
        while True:
            try:
                while await self._messages.drain(self.handle):
                    pass
            except StoreUnavailable as error:
                log.warning("exhausted messages not read: %s", error)
            except Exception:
                log.exception("defect in reading exhausted messages")
            await asyncio.sleep(INTERVAL_S)

    async def handle(self, message: Message) -> None:
        """Raises StoreUnavailable; the message then comes again."""
        if (job_id := find_headshot(message.data)) is not None:
            await self._refuse_headshot(job_id, SENTENCE_OF_HEADSHOT)
            log.warning("a headshot's message was given up by Pub/Sub", extra={"delivery": message.id, "job": job_id})
            return
        session = find_session(message.data)
        published_at = _read_time(message.attributes.get(PUBLISH_TIME))
        shown = session is not None and await self._store.merge_session(
            session, lambda document: _show(document, published_at)
        )
        log.warning("a message was given up by Pub/Sub", extra={"delivery": message.id, "shown": shown})


def find_headshot(data: str) -> str | None:
    """The id of the headshot's job that a message is about, if at least that much of it can be read."""
    values = _read_object(data)
    if values is None or ("userId" in values and "orig_key" not in values):
        return None
    job_id = values.get("job_id")
    return job_id if isinstance(job_id, str) and re.fullmatch(HEADSHOT_ID_PATTERN, job_id) else None


def _read_object(data: str) -> dict[str, Any] | None:
    try:
        values = json.loads(base64.b64decode(data, validate=True))
    except (binascii.Error, UnicodeDecodeError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def find_session(data: str) -> Session | None:
    """The session a message is about, if at least that much of it can be read; one that asks for a headshot is about
    none, whatever else its publisher put into it."""
    values = _read_object(data)
    if values is None or "orig_key" in values:
        return None
    ids = [values.get(name) for name in ("userId", "sessionId")]
    if not all(isinstance(value, str) and re.fullmatch(ID_PATTERN, value) for value in ids):
        return None
    return Session(str(ids[0]), str(ids[1]))


def _show(document: Document, published_at: float | None) -> Mapping[str, Any]:
    """What a session shows then; nothing new if an edit asked for as late or later is under way or has ended."""
    if document.get("jobId"):
        known = float(document.get("jobPublishedAt") or 0)
        if document.get("processingStatus") == "processing" or published_at is None or published_at <= known:
            return {}
    return {"processingStatus": "failed", "errorMessage": SENTENCE}


def _read_time(text: str | None) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None
