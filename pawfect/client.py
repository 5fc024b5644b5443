"""The service over HTTP, as a caller uses it."""

from __future__ import annotations

import base64
import json
from types import TracebackType
from typing import Any, Self

import httpx

ANSWER_S = 10.0
"""For requests that are answered at once."""
PUSH_S = 600.0
"""Pub/Sub's longest ack deadline: a push is held until the edit has ended."""


class Client:
    def __init__(self, url: str) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=ANSWER_S, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def ready(self) -> tuple[bool, str]:
        """Whether an edit can be done now, and what is in the way."""
        try:
            answer = (await self._http.get("/ready")).json()
        except (httpx.TransportError, json.JSONDecodeError):
            return False, "not answering yet"
        return bool(answer.get("ready")), str(answer.get("reason") or answer.get("state"))

    async def push(self, message_id: str, data: dict[str, Any], **message: Any) -> int:
        """Deliver a message as a push subscription would; the status that came back."""
        envelope = {
            "message": {
                "messageId": message_id,
                "data": base64.b64encode(json.dumps(data).encode()).decode(),
                **message,
            },
            "subscription": "projects/local/subscriptions/session-processing-push",
        }
        return (await self._http.post("/inpaint", json=envelope, timeout=PUSH_S)).status_code

    async def edit(self, user_id: str, session_id: str, **options: Any) -> httpx.Response:
        """Ask for the same edit directly, and wait for its end."""
        return await self._http.post(_path(user_id, session_id), json=options, timeout=PUSH_S)

    async def show(self, user_id: str, session_id: str) -> httpx.Response:
        return await self._http.get(_path(user_id, session_id))

    async def cancel(self, user_id: str, session_id: str) -> httpx.Response:
        return await self._http.delete(_path(user_id, session_id))


def _path(user_id: str, session_id: str) -> str:
    return f"/v1/users/{user_id}/sessions/{session_id}/edit"
