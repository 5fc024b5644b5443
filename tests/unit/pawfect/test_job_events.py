"""Following a job's events through cuts and outages, against a server that answers as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx
import pytest

from pawfect import job_events
from pawfect.client import Client

PROBLEM = (
    b"HTTP/1.1 %d Refused\r\nContent-Type: application/problem+json\r\nContent-Length: 16\r\n\r\n" + b'{"detail": "no"}'
)
NOT_UP_YET = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n"
HEARD = b"HTTP/1.1 204 No Content\r\n\r\n"
STEP, DONE = b'event: step\r\ndata: {"step": 1}\r\nid: 4\r\n\r\n', b"event: done\ndata: {}\nid: 9\n\n"
ALIVE = b"retry: 1\n\n: alive\n\n"


def stream(*blocks: bytes, cut: bool = False) -> bytes:
    """An answer that ends in order, or whose connection goes before it has ended."""
    body = b"".join(blocks)
    length = len(body) + (100 if cut else 0)
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%s" % (length, body)


@asynccontextmanager
async def serve(answers: Sequence[bytes]) -> AsyncIterator[tuple[Client, list[str]]]:
    """One connection for each of the answers; the second value has the requests' heads, as they come."""
    heads: list[str] = []
    left = list(answers)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode().lower())
        writer.write(left.pop(0))
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "pk_key") as client:
        yield client, heads


@pytest.fixture(autouse=True)
def brief_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_events, "RETRY_S", 0.001)


@pytest.mark.parametrize(
    "first",
    [stream(ALIVE, STEP, cut=True), stream(ALIVE, STEP, b"event: done\ndata: {", cut=True), stream(ALIVE, STEP)],
    ids=["cut off", "cut off in an event", "ended early"],
)
async def test_it_comes_again_with_the_last_id_it_heard(first: bytes) -> None:
    async with serve([first, PROBLEM % 503, PROBLEM % 429, NOT_UP_YET, stream(DONE)]) as (client, heads):
        heard = [(event.id, event.name, event.data) async for event in client.follow("job-1")]
    assert heard == [(4, "step", {"step": 1}), (9, "done", {})]
    assert all(head.startswith("get /v1/jobs/job-1/events ") for head in heads)
    assert all("authorization: bearer pk_key\r\n" in head for head in heads)
    assert ["last-event-id: 4\r\n" in head for head in heads] == [False, True, True, True, True]


async def test_who_has_heard_the_end_is_left_alone() -> None:
    async with serve([HEARD]) as (client, heads):
        assert [event async for event in client.follow("job-1", 9)] == []
    assert "last-event-id: 9\r\n" in heads[0]


@pytest.mark.parametrize("status", [401, 404, 422])
async def test_a_refusal_is_the_callers_to_deal_with(status: int) -> None:
    async with serve([PROBLEM % status]) as (client, _):
        with pytest.raises(httpx.HTTPStatusError) as refusal:
            await anext(client.follow("job-1"))
    assert (refusal.value.response.status_code, refusal.value.response.json()) == (status, {"detail": "no"})


async def test_the_service_says_how_long_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        paused.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", note)
    async with serve([PROBLEM % 503, stream(b"retry: 2500\n\n"), stream(DONE)]) as (client, _):
        assert [event.name async for event in client.follow("job-1")] == ["done"]
    assert paused == [0.001, 2.5]


async def test_without_coming_again_it_ends_with_the_connection() -> None:
    async with serve([stream(STEP), stream(STEP, cut=True), PROBLEM % 503]) as (client, _):
        assert [event.name async for event in client.follow("job-1", reconnect=False)] == ["step"]
        with pytest.raises(httpx.TransportError):
            [event async for event in client.follow("job-1", reconnect=False)]
        with pytest.raises(httpx.HTTPStatusError):
            [event async for event in client.follow("job-1", reconnect=False)]
