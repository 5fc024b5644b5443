"""A job's events on the real service, with two ingress replicas: what a watcher hears, however he comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import httpx
import pytest

from pawfect.client import Client
from pawfect.job_events import JobEvent
from pawfect.sessions import Backend
from serve_app.jobs.model import Session
from tests.acceptance.jobs_service import PATIENCE_S, PHOTO, JobsService, find_ingresses, finish, occupy, submit
from tests.photos import make_mask, make_photo

pytestmark = pytest.mark.serve

WATCHERS = 200
PICTURE = {"operation": "ImageGeneration", "prompt": "a dog", "width": 1024, "height": 768, "steps": 8}
"""Some seconds of work, of which decoding alone takes one."""
INPAINTING = {"operation": "ImageInpaint", "init_image": PHOTO, "mask_image": make_mask()}


async def hear(client: Client, job_id: str, last_event_id: int | None = None) -> list[JobEvent]:
    async with asyncio.timeout(PATIENCE_S):
        return [event async for event in client.follow(job_id, last_event_id)]


async def hear_steps(client: Client, job_id: str, steps: int) -> list[JobEvent]:
    """Hangs up once so many steps are done."""
    heard = []
    async with asyncio.timeout(PATIENCE_S), aclosing(client.follow(job_id)) as events:
        async for event in events:
            heard.append(event)
            if (event.data["step"] or 0) >= steps:
                return heard
    raise AssertionError("the job ended before")


def expect_growing(events: list[JobEvent]) -> None:
    ids = [event.id for event in events]
    assert ids == sorted(set(ids))


def drop_repeats(names: list[str]) -> list[str]:
    return [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]


async def test_queued_then_steps_then_decoding_then_done(caller: Client) -> None:
    async with asyncio.timeout(PATIENCE_S):
        async with occupy(caller):
            view = await submit(caller, **PICTURE)
            following = caller.follow(view["job_id"])
            first = await anext(following)
        events = [first, *[event async for event in following]]
    expect_growing(events)
    names = drop_repeats([event.name for event in events])
    assert [name for name in names if name not in ("queued", "stage")] == ["step", "decoding", "done"]
    assert names[0] == "queued"
    assert "queued" not in names[names.index("step") :]
    steps = [event.data["step"] for event in events if event.name == "step"]
    assert steps == sorted(steps)
    assert {event.data["steps"] for event in events if event.name == "step"} == {8}
    assert {event.data["status"] for event in events if event.name != "done"} <= {"queued", "processing"}
    assert events[-1].data == {
        **dict.fromkeys(("stage", "step", "steps", "eta_s", "position", "error")),
        "job_id": view["job_id"],
        "status": "completed",
        "result_url": view["result_url"],
    }


async def test_one_who_comes_again_hears_only_what_is_new(caller: Client) -> None:
    view = await submit(caller, **PICTURE)
    heard = await hear_steps(caller, view["job_id"], 2)
    late, again = await asyncio.gather(
        hear(caller, view["job_id"]), hear(caller, view["job_id"], last_event_id=heard[-1].id)
    )
    expect_growing([*heard, *again])
    expect_growing(late)
    assert late[0].id >= heard[-1].id, "one who comes late hears how it is, not how it was"
    assert late[-1] == again[-1]
    assert again[-1].name == "done"


async def test_one_who_comes_after_the_end_hears_the_end_once(caller: Client) -> None:
    view = await submit(caller, **INPAINTING)
    await finish(caller, view)
    [end] = await hear(caller, view["job_id"])
    assert end.name == "done"
    assert await hear(caller, view["job_id"], last_event_id=end.id - 1) == [end]
    assert await hear(caller, view["job_id"], last_event_id=end.id) == []


async def test_two_hundred_watchers_all_hear_the_end(caller: Client) -> None:
    queued = 0

    async def watch(job_id: str) -> JobEvent:
        """Its last event, of one connection."""
        nonlocal queued
        event = None
        async for event in caller.follow(job_id, reconnect=False):
            queued += event.name == "queued"
        assert event is not None
        return event

    async with asyncio.timeout(PATIENCE_S):
        async with occupy(caller):
            view = await submit(caller, **INPAINTING)
            watchers = [asyncio.create_task(watch(view["job_id"])) for _ in range(WATCHERS)]
            while queued < WATCHERS:
                await asyncio.sleep(0.05)
        ends = await asyncio.gather(*watchers)
    missed = [end for end in ends if end.name != "done"]
    assert missed == []
    assert len({end.id for end in ends}) == 1


async def test_a_sessions_edit_is_a_job_too(jobs_service: JobsService, caller: Client) -> None:
    session, backend = Session("events", "edited"), Backend(jobs_service.process.data_dir)
    await backend.create(session, make_photo(), make_mask())
    edited = await caller.edit("events", "edited", quality="low")
    assert edited.status_code == 200, edited.text
    job_id = edited.json()["job"]["jobId"]
    [end] = await hear(caller, job_id)
    assert end.name == "done"
    result = await caller.fetch_result(job_id)
    assert result.content == await backend.download(session.edited_path)
    assert (await caller.cancel_job(job_id)).status_code == 409
    backend.close()


async def test_there_is_nothing_to_hear_of_a_job_that_is_not_there(caller: Client) -> None:
    with pytest.raises(httpx.HTTPStatusError) as refusal:
        await hear(caller, "job-of-nobody")
    assert refusal.value.response.status_code == 404
    assert refusal.value.response.json()["type"] == "urn:pawfect:problem:not_found"


async def test_killed_ingresses_cost_their_watchers_nothing(jobs_service: JobsService, caller: Client) -> None:
    """One after the other, so that every watcher has lost a connection, whichever of the two it had."""
    connections = 0

    async def count(request: httpx.Request) -> None:
        nonlocal connections
        connections += request.url.path.endswith("/events")

    caller._http.event_hooks["request"].append(count)
    async with occupy(caller):
        view = await submit(caller, **INPAINTING)
        watchers = [caller.follow(view["job_id"]) for _ in range(12)]
        firsts = await asyncio.gather(*(anext(watcher) for watcher in watchers))
        assert {first.name for first in firsts} == {"queued"}
        assert connections == len(watchers)
        rests = [asyncio.create_task(hear_rest(watcher)) for watcher in watchers]
        await kill_ingresses(jobs_service)
    for first, rest in zip(firsts, await asyncio.gather(*rests), strict=True):
        expect_growing([first, *rest])
        assert rest[-1].name == "done"
    assert connections >= 2 * len(watchers)


async def hear_rest(events: AsyncGenerator[JobEvent]) -> list[JobEvent]:
    async with asyncio.timeout(PATIENCE_S), aclosing(events):
        return [event async for event in events]


async def kill_ingresses(service: JobsService) -> None:
    """Each of those that run now, and wait for another in its place."""
    killed = find_ingresses(service)
    assert len(killed) == 2
    for ingress in killed:
        ingress.kill()
        async with asyncio.timeout(PATIENCE_S):
            while ingress in (running := find_ingresses(service)) or len(running) < 2:
                await asyncio.sleep(0.1)
        await service.process.wait_ready()
    assert not set(killed) & set(find_ingresses(service))
