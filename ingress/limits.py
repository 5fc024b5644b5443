"""How much of a request's body is read, at most."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

DEFAULT_BYTES = 64 * 2**10
"""Options of an edit take some hundred bytes; a prompt of two thousand characters at most eight thousand."""


class BodyLimit:
    """Answers 413 when a body announces more bytes than its path's limit, or when more come; the rest is not read.

    `limits` maps paths to bytes; one that ends with a slash is for all paths below it. Others have `DEFAULT_BYTES`.
    Nothing is read, and nothing refused, before the application asks for the body: a stranger hears of the missing
    token first.
    """

    def __init__(self, app: ASGIApp, limits: Mapping[str, int]) -> None:
        self._app = app
        self._limits = limits
        self._folders = tuple(path for path in limits if path.endswith("/"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._find_limit(scope["path"])
        came = 0

        async def receive_limited() -> Message:
            nonlocal came
            message = {} if _announced(scope) > limit else await receive()
            came += len(message.get("body", b""))
            if came > limit or not message:
                raise HTTPException(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body has more than the {limit} bytes that are accepted."
                )
            return message

        await self._app(scope, receive_limited, send)

    def _find_limit(self, path: str) -> int:
        folder = next((folder for folder in self._folders if path.startswith(folder)), path)
        return self._limits.get(path, self._limits.get(folder, DEFAULT_BYTES))


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
