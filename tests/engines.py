"""Engines that do what a test tells them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

import numpy as np

from serve_app.engines.protocol import Done, EngineResult, Event, FillRequest, Step
from serve_app.errors import PawfectError


def paint(request: FillRequest, value: int = 0) -> EngineResult:
    """Every crop painted in one colour, masked and kept pixels alike: a composite has to keep the latter out."""
    images = tuple(np.full_like(crop.image, value) for crop in request.crops)
    return EngineResult(images, engine_seconds=0.5, gpu_seconds=2.0)


class FakeEngine:
    """Plays `script`, one entry per request: events to emit, or an error to raise; after the script it just paints.

    While `gate` is closed, requests wait inside the engine. `left` counts requests abandoned before their end.
    """

    def __init__(self, *script: list[Event] | PawfectError | Callable[[FillRequest], EngineResult]) -> None:
        self.script = list(script)
        self.requests: list[FillRequest] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.left = 0

    async def run(self, request: FillRequest) -> AsyncGenerator[Event]:
        self.requests.append(request)
        turn = self.script.pop(0) if self.script else paint
        finished = False
        try:
            yield Step(0, 1)
            await self.gate.wait()
            if isinstance(turn, PawfectError):
                raise turn
            if callable(turn):
                yield Done(turn(request))
            else:
                for event in turn:
                    yield event
            finished = True
        except PawfectError:
            finished = True
            raise
        finally:
            self.left += not finished
