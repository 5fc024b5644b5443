"""Callbacks of an engine's thread as a stream, with the real draft engine around a fake model."""

from __future__ import annotations

import asyncio
import threading

import numpy as np

from serve_app.engines.draft import DraftEngine
from serve_app.engines.protocol import Cancelled, Crop, Done, FillRequest, Image, Mask, Queued, Step
from serve_app.engines.streaming import DirectClient, stream


def make_request(request_id: str = "j", crops: int = 2) -> FillRequest:
    crop = Crop(np.zeros((64, 64, 3), np.uint8), np.full((64, 64), 255, np.uint8))
    return FillRequest(request_id=request_id, crops=(crop,) * crops, prompt="grass", steps=1, guidance=0.0, seed=7)


def invent(image: Image, mask: Mask) -> Image:
    return np.random.default_rng(0).integers(0, 255, image.shape, np.uint8)


async def test_every_event_comes_in_order_and_the_stream_ends() -> None:
    engine = DraftEngine(invent)
    events = [event async for event in DirectClient(engine).run(make_request())]
    engine.close()
    assert [type(event) for event in events] == [Queued, Step, Step, Step, Done]
    assert isinstance(events[-1], Done)
    assert [image.shape for image in events[-1].result.images] == [(64, 64, 3)] * 2


async def test_leaving_the_stream_cancels_the_request() -> None:
    begun, go_on, calls = threading.Event(), threading.Event(), []

    def slow(image: Image, mask: Mask) -> Image:
        calls.append(1)
        begun.set()
        go_on.wait(10)
        return invent(image, mask)

    engine = DraftEngine(slow)
    events = stream(engine, make_request(crops=5))
    assert isinstance(await anext(events), Queued)
    await asyncio.to_thread(begun.wait, 10)
    await events.aclose()
    go_on.set()
    rest = [event async for event in stream(engine, make_request("next", crops=1))]
    assert isinstance(rest[-1], Done)
    assert len(calls) == 2, "of the abandoned request only the crop under way was finished"
    engine.close()


async def test_a_closed_engine_says_so() -> None:
    engine = DraftEngine(invent)
    engine.close()
    assert [event async for event in stream(engine, make_request())] == [Cancelled()]
