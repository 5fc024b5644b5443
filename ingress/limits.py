"""How much of a request's body is read, at most."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingress.problems import problem

DEFAULT_BYTES = 64 * 2**10
"""Options of an edit take some hundred bytes; a prompt of two thousand characters at most eight thousand."""


class BodyLimit:
    """Answers 413 when more bytes are announced, or have come, than the path's limit; the rest is not read.

    `limits` maps paths to bytes; other paths have `DEFAULT_BYTES`.
    """

    def __init__(self, app: ASGIApp, limits: Mapping[str, int]) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limits.get(scope["path"], DEFAULT_BYTES)
        messages: list[Message] = []
        size = _announced(scope)
        more = size <= limit
        while more:
            message = await receive()
            messages.append(message)
            size = max(size, sum(len(each.get("body", b"")) for each in messages))
            more = size <= limit and message["type"] == "http.request" and message.get("more_body", False)
        if size > limit:
            answer = problem(413, "body_too_large", f"The body has more than the {limit} bytes that are accepted.")
            await answer(scope, receive, send)
            return

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        await self._app(scope, replay, send)


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
