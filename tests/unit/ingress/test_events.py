"""A job's events: what each says, which are sent, and when a stream ends; over the real application and stores."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Message

from ingress import events
from ingress.events import describe, encode, find_id, has_heard_all, read_after, stream
from serve_app.engines.protocol import Decoding, Done, Event, FillRequest, Queued, Step
from serve_app.errors import StoreUnavailable
from serve_app.jobs import service, transitions
from serve_app.jobs.model import Job, Progress, Stage, Status
from serve_app.jobs.store import Write
from tests.api import Api, expect_problem, open_api
from tests.engines import paint
from tests.photos import make_mask
from tests.unit.jobs.test_transitions import OUTCOME, claimed, make_job


@dataclass(frozen=True)
class Heard:
    id: int
    name: str
    data: dict[str, Any]


def parse(text: str) -> list[Heard]:
    """The events of a stream, as a browser reads them; comments and blocks without data are none."""
    heard = []
    for block in text.split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        if "data" in fields:
            heard.append(Heard(int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return heard


class Listener:
    """One GET of a job's events over ASGI, heard while it comes, that can be hung up on."""

    def __init__(self, api: Api, job: Job, *, last: int | None = None, spec: str = "2.3") -> None:
        self.text = ""
        self.status = 0
        self.deaf = False
        self._news = asyncio.Condition()
        self._gone = asyncio.Event()
        headers = [(b"host", b"localhost")] + ([(b"last-event-id", str(last).encode())] if last is not None else [])
        path = f"/v1/jobs/{job.id}/events"
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": spec}, "http_version": "1.1", "method": "GET",
            "scheme": "http", "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"",
            "headers": headers, "client": ("127.0.0.1", 5000), "server": ("localhost", 80),
        }  # fmt: skip
        self.task = asyncio.create_task(find_app(api)(scope, self._receive, self._send))  # type: ignore[arg-type]

    @property
    def heard(self) -> list[Heard]:
        return parse(self.text)

    async def until(self, name: str) -> Heard:
        async with asyncio.timeout(20), self._news:
            await self._news.wait_for(lambda: any(event.name == name for event in self.heard))
        return next(event for event in self.heard if event.name == name)

    async def end(self) -> list[Heard]:
        await asyncio.wait_for(self.task, 20)
        return self.heard

    def hang_up(self) -> None:
        self._gone.set()

    async def _receive(self) -> Message:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self.deaf:
            raise OSError("nobody there")
        async with self._news:
            self.status = message.get("status", self.status)
            self.text += message.get("body", b"").decode()
            self._news.notify_all()


def find_app(api: Api) -> ASGIApp:
    return api.http._transport.app  # type: ignore[attr-defined, no-any-return]


class Dictated:
    """An engine that says what it is told to, when it is told to."""

    def __init__(self) -> None:
        self.says: asyncio.Queue[Event | None] = asyncio.Queue()

    async def run(self, request: FillRequest) -> AsyncGenerator[Event]:
        while (event := await self.says.get()) is not None:
            yield event
        yield Done(paint(request))


def dictate(api: Api) -> asyncio.Queue[Event | None]:
    engine = Dictated()
    api.engine.run = engine.run  # type: ignore[method-assign]
    return engine.says


async def submit(api: Api, **options: Any) -> Job:
    await api.bench.put_session(**options)
    return await api.bench.submit()


async def get_events(api: Api, job: Job, last: str | None = None, **options: Any) -> Any:
    headers = {"Last-Event-ID": last} if last is not None else {}
    return await api.http.get(f"/v1/jobs/{job.id}/events", headers=headers, **options)


def watches(api: Api) -> dict[str, Any]:
    return api.bench.stores.jobs._watchers._watches  # type: ignore[attr-defined, no-any-return]


async def wait_until_unwatched(api: Api) -> None:
    async with asyncio.timeout(20):
        while watches(api):
            await asyncio.sleep(0.001)


RUNNING = claimed()
ENDED = transitions.complete(RUNNING.evolve(version=4), "token", 1009.0, OUTCOME).evolve(version=5)

SAID: dict[str, tuple[Job, str, dict[str, Any]]] = {
    "queued": (make_job(), "queued", {"status": "queued", "stage": "queue", "step": None, "position": None}),
    "claimed": (RUNNING, "stage", {"status": "processing", "stage": "queue", "result_url": None}),
    "photo": (RUNNING.evolve(progress=Progress(Stage.DECODE)), "stage", {"stage": "decode", "steps": None}),
    "waits for engine": (
        RUNNING.evolve(progress=Progress(Stage.ENGINE, eta_s=30.5, position=0)),
        "queued",
        {"status": "processing", "stage": "engine", "position": 0, "eta_s": 30.5, "step": None},
    ),
    "its turn": (RUNNING.evolve(progress=Progress(Stage.ENGINE, 0, 28)), "step", {"step": 0, "steps": 28}),
    "step": (
        RUNNING.evolve(progress=Progress(Stage.ENGINE, 3, 28, 21.5)),
        "step",
        {"stage": "engine", "step": 3, "steps": 28, "eta_s": 21.5, "position": None},
    ),
    "decoding": (
        RUNNING.evolve(progress=Progress(Stage.ENGINE, 28, 28, 0.0, decoding=True)),
        "decoding",
        {"stage": "engine", "step": 28, "steps": 28},
    ),
    "after": (RUNNING.evolve(progress=Progress(Stage.UPLOAD)), "stage", {"stage": "upload"}),
    "done": (ENDED, "done", {"status": "completed", "stage": None, "result_url": "/v1/jobs/edit-1/result"}),
    "failed": (
        transitions.fail(RUNNING, 1009.0, "mask_empty", "Nothing\nis white."),
        "failed",
        {"status": "failed", "error": {"code": "mask_empty", "message": "Nothing\nis white."}, "result_url": None},
    ),
    "cancelled": (
        transitions.cancel(make_job(), 1009.0, "cancelled"),
        "cancelled",
        {"status": "cancelled", "error": {"code": "cancelled", "message": "cancelled"}},
    ),
    "runs again": (make_job(error="The engine broke."), "queued", {"status": "queued", "error": None}),
}


@pytest.mark.parametrize(("job", "name", "data"), SAID.values(), ids=SAID)
def test_each_state_of_a_job_has_its_event(job: Job, name: str, data: dict[str, Any]) -> None:
    (heard,) = parse(encode(describe(job.evolve(version=7, ended_version=None))).decode())
    assert (heard.id, heard.name, heard.data["job_id"]) == (7, name, job.id)
    assert {field: heard.data[field] for field in data} == data
    assert set(heard.data) == {
        "job_id", "status", "stage", "step", "steps", "eta_s", "position", "error", "result_url",
    }  # fmt: skip


def test_an_end_keeps_its_id_whatever_is_written_after_it() -> None:
    closed = transitions.close(ENDED).evolve(version=6)
    assert (describe(ENDED), find_id(ENDED)) == (describe(closed), 5)
    assert [has_heard_all(closed, last) for last in (0, 4, 5, 6)] == [False, False, True, True]
    assert not has_heard_all(RUNNING.evolve(version=5), 5)


def test_an_id_beyond_the_job_is_of_another() -> None:
    assert [read_after(ENDED, last) for last in (0, 4, 5, 6)] == [0, 4, 5, 0]
    assert not has_heard_all(ENDED, 6)


async def test_a_run_is_heard_from_the_queue_to_the_result(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        says = dictate(api)
        job = await submit(api)
        listener = Listener(api, job)
        assert (await listener.until("queued")).data["status"] == "queued"
        api.bench.runner.start()
        says.put_nowait(Queued(3, 42.0))
        async with asyncio.timeout(20):
            while listener.heard[-1].data["position"] != 3:
                await asyncio.sleep(0.001)
        assert (listener.heard[-1].name, listener.heard[-1].data["eta_s"]) == ("queued", 42.0)
        says.put_nowait(Step(1, 2, 5.0))
        step = await listener.until("step")
        assert (step.data["step"], step.data["steps"], step.data["position"]) == (1, 2, None)
        says.put_nowait(Decoding())
        decoding = await listener.until("decoding")
        assert (decoding.data["step"], decoding.data["steps"]) == (1, 2)
        says.put_nowait(None)
        heard = await listener.end()
        assert (heard[-1].name, heard[-1].data["result_url"]) == ("done", f"/v1/jobs/{job.id}/result")
        ids = [event.id for event in heard]
        assert ids == sorted(set(ids))
        assert listener.text.startswith("retry: ")


async def test_how_it_is_sent(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        job = await api.bench.finish(await submit(api))
        response = await get_events(api, job)
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert (response.headers["cache-control"], response.headers["x-accel-buffering"]) == ("no-cache", "no")
        assert [event.name for event in parse(response.text)] == ["done"]
        described = (await api.http.get("/openapi.json")).json()["paths"]["/v1/jobs/{job_id}/events"]["get"]
        assert list(described["responses"]["200"]["content"]) == ["text/event-stream"]


async def test_who_has_heard_the_end_need_not_come_again(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        job = await api.bench.finish(await submit(api))
        (end,) = parse((await get_events(api, job)).text)
        closed = await api.bench.until(job, closed=True)
        assert closed.version > end.id
        response = await get_events(api, job, str(end.id))
        assert (response.status_code, response.content) == (204, b"")
        assert (await get_events(api, job, params={"last_event_id": str(end.id)})).status_code == 204
        for last in (str(end.id - 1), "", "999"):
            assert parse((await get_events(api, job, last)).text) == [end]


async def test_who_comes_again_hears_only_what_is_newer(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        says = dictate(api)
        job = await submit(api)
        first = Listener(api, job)
        says.put_nowait(Step(1, 3))
        step = await first.until("step")
        first.hang_up()
        await first.end()
        again = Listener(api, job, last=step.id)
        says.put_nowait(Step(2, 3))
        newer = await again.until("step")
        assert (newer.data["step"], newer.id > step.id) == (2, True)
        says.put_nowait(None)
        heard = await again.end()
        assert (heard[-1].name, min(event.id for event in heard) > step.id) == ("done", True)


async def test_an_end_that_is_asked_for_anew_is_told_anew(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        job = await api.bench.finish(await submit(api, mask=make_mask(box=None)))
        (failed,) = parse((await get_events(api, job)).text)
        assert (failed.name, failed.data["error"]["code"]) == ("failed", "mask_empty")
        await api.bench.until(job, closed=True)
        await api.bench.finish(await api.bench.submit("m2"))
        (again,) = parse((await get_events(api, job, str(failed.id))).text)
        assert (again.name, again.id > failed.id) == ("failed", True)


async def test_a_cancellation_is_heard(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        job = await submit(api)
        listener = Listener(api, job)
        await listener.until("queued")
        await api.bench.service.cancel(job.id)
        assert [event.name for event in await listener.end()] == ["queued", "cancelled"]


@pytest.mark.parametrize("job", [make_job(id="job-none"), make_job(session=None, owner="somebody@else")])
async def test_no_job_of_the_callers_is_404(tmp_path: Path, job: Job) -> None:
    async with open_api(tmp_path, start=False) as api:
        if job.owner:
            await api.bench.stores.jobs.change(job.id, None, lambda _job, _document: Write(job))
        expect_problem(await get_events(api, job), 404, "not_found")


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 19])
async def test_no_id_of_an_event_is_422(tmp_path: Path, last: str) -> None:
    async with open_api(tmp_path, start=False) as api:
        job = await submit(api)
        body = expect_problem(await get_events(api, job, last), 422, "invalid_request")
        assert body["field"] == "Last-Event-ID"
        body = expect_problem(await get_events(api, job, params={"last_event_id": last}), 422, "invalid_request")
        assert body["field"] == "last_event_id"


async def test_a_quiet_stream_is_kept_alive_and_has_a_bounded_life(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        job = await submit(api)
        opened = stream(job, 0, api.bench.service, keepalive_s=0.01, lifetime_s=0.3)
        chunks = [chunk async for chunk in opened]
        assert chunks[-1] == events.COME_AGAIN
        assert events.KEEPALIVE in chunks
        assert [event.name for event in parse(b"".join(chunks).decode())] == ["queued"]
        await wait_until_unwatched(api)


async def test_what_says_nothing_new_is_a_keepalive(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        job = await submit(api)
        async with aclosing(stream(job, 0, api.bench.service)) as opened:
            assert parse((await anext(opened) + await anext(opened)).decode())[0].name == "queued"
            # As a renewed lease does.
            await api.bench.stores.jobs.change(job.id, None, lambda found, _document: found and Write(found))
            assert await asyncio.wait_for(anext(opened), 20) == events.KEEPALIVE


async def test_a_service_that_stops_ends_its_streams(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        says = dictate(api)
        job = await submit(api)
        says.put_nowait(Step(1, 3))
        listener = Listener(api, job)
        await listener.until("step")
        api.bench.service.stop_waiting()
        heard = await listener.end()
        assert heard[-1].name == "step"
        assert listener.text.endswith(events.COME_AGAIN.decode())


@pytest.mark.parametrize("spec", ["2.3", "2.4"])
async def test_who_hangs_up_leaves_no_watch_behind(tmp_path: Path, spec: str) -> None:
    async with open_api(tmp_path, start=False) as api:
        job = await submit(api)
        leaving, staying = Listener(api, job, spec=spec), Listener(api, job)
        await asyncio.gather(leaving.until("queued"), staying.until("queued"))
        leaving.hang_up()
        await leaving.end()
        assert [watch.watchers for watch in watches(api).values()] == [1]
        staying.task.cancel()  # as Serve tells it
        await asyncio.gather(staying.task, return_exceptions=True)
        assert watches(api) == {}
        found = await api.bench.stores.jobs.get(job.id)
        assert found is not None
        assert found.status is Status.QUEUED


async def test_a_connection_that_breaks_in_sending_leaves_no_watch_behind(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        job = await submit(api)
        listener = Listener(api, job, spec="2.4")
        await listener.until("queued")
        listener.deaf = True
        api.bench.runner.start()
        await listener.end()
        assert watches(api) == {}


async def test_an_outage_of_the_store_is_waited_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "OUTAGE_PAUSE_S", 0.01)
    async with open_api(tmp_path, start=False) as api:
        job = await submit(api)
        store, is_out, failures = api.bench.stores.jobs, False, 0
        get = store.get

        async def get_or_fail(job_id: str) -> Job | None:
            nonlocal failures
            if is_out:
                failures += 1
                raise StoreUnavailable("out for lunch.")
            return await get(job_id)

        monkeypatch.setattr(store, "get", get_or_fail)
        listener = Listener(api, job)
        await listener.until("queued")
        is_out = True
        await store.change(
            job.id, None, lambda found, _document: found and Write(transitions.cancel(found, 1009.0, "cancelled"))
        )
        async with asyncio.timeout(20):
            while failures < 3:
                await asyncio.sleep(0.001)
        is_out = False
        assert [event.name for event in await listener.end()] == ["queued", "cancelled"]


async def test_another_process_tells_the_rest(tmp_path: Path) -> None:
    """Two processes on one store, as replicas are; the first goes away while the job runs."""
    async with open_api(tmp_path, start=False) as other:
        async with open_api(tmp_path, start=False) as api:
            job = await submit(api)
            listener = Listener(api, job)
            queued = await listener.until("queued")
            listener.task.cancel()
            await asyncio.gather(listener.task, return_exceptions=True)
        again = Listener(other, job, last=queued.id)
        other.bench.runner.start()
        heard = await again.end()
        assert (heard[-1].name, min(event.id for event in heard) > queued.id) == ("done", True)


WATCHERS = 200


async def test_many_listen_to_one_job_at_the_cost_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_api(tmp_path, start=False) as api:
        job = await submit(api)
        store, reads = api.bench.stores.jobs, 0
        get = store.get

        async def count(job_id: str) -> Job | None:
            nonlocal reads
            reads += 1
            return await get(job_id)

        monkeypatch.setattr(store, "get", count)
        listeners = [Listener(api, job) for _ in range(WATCHERS)]
        await asyncio.gather(*(listener.until("queued") for listener in listeners))
        assert reads <= 2 * WATCHERS  # each one's own, whether the job is the caller's, and what those who come need
        reads, says = 0, dictate(api)
        api.bench.runner.start()
        for step in range(1, 4):
            says.put_nowait(Step(step, 3))
            await asyncio.sleep(0.1)
        says.put_nowait(None)
        heard = await asyncio.gather(*(listener.end() for listener in listeners))
        assert [told[-1].name for told in heard] == ["done"] * WATCHERS
        ended = await get(job.id)
        assert ended is not None
        assert reads <= 2 * ended.version  # one per change, and some for looks that find nothing new
        assert watches(api) == {}
