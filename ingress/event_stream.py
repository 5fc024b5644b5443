"""Server-sent events on the wire: https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

MEDIA_TYPE = "text/event-stream"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Nobody on the way keeps events back; the second is what nginx and its kin listen to."""


class EventStream(StreamingResponse):
    """Sends encoded events until they end or the client has gone, and then closes their generator at once.

    It listens for the client's leaving by itself: a stream may have nothing to send for long, and by the newer ASGI
    versions only who sends would hear of it.
    """

    media_type = MEDIA_TYPE

    def __init__(self, events: AsyncGenerator[bytes]) -> None:
        super().__init__(events, headers=HEADERS)
        self._events = events

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send_events(send))
        leaving = asyncio.create_task(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send_events(self, send: Send) -> None:
        async with contextlib.aclosing(self._events):
            with contextlib.suppress(OSError):  # how a server says in `send` that nobody is there
                await self.stream_response(send)
