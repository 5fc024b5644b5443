"""Requests that are hung up on, which no HTTP client of this process can do in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx

from tests.api import Api


class Call:
    """A POST over ASGI that can be hung up on."""

    def __init__(self, api: Api, path: str, files: Any = None, data: Any = None, **more: Any) -> None:
        request = httpx.Request("POST", f"http://localhost{path}", files=files, data=data, **more)
        self._body: list[bytes] = [request.read()]
        self._gone = asyncio.Event()
        self.status = 0
        self.text = ""
        headers = [(name.lower(), value) for name, value in request.headers.raw]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
            "headers": headers, "client": ("127.0.0.1", 5000), "server": ("localhost", 80),
        }  # fmt: skip
        app = api.http._transport.app  # type: ignore[attr-defined]
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                await asyncio.sleep(0.01)

    async def end(self) -> None:
        await asyncio.wait_for(self.task, 20)

    def hang_up(self) -> None:
        self._gone.set()

    async def _receive(self) -> dict[str, Any]:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.status = message.get("status", self.status)
        self.text += message.get("body", b"").decode()
