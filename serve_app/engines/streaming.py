"""An engine's callbacks as an asynchronous stream of events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from serve_app.engines.protocol import Cancelled, Done, Engine, Event, Failed, Request


async def stream(engine: Engine, request: Request) -> AsyncGenerator[Event]:
    """Submit and yield every event up to the final one; a consumer that leaves earlier cancels the request."""
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[Event] = asyncio.Queue()

    def emit(event: Event) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(events.put_nowait, event)

    engine.submit(request, emit)
    finished = False
    try:
        while not finished:
            event = await events.get()
            finished = isinstance(event, Done | Failed | Cancelled)
            yield event
    finally:
        if not finished:
            engine.cancel(request.request_id)


class DirectClient:
    """An EngineClient for an engine in this process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run(self, request: Request) -> AsyncGenerator[Event]:
        return stream(self._engine, request)
