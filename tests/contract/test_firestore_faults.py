"""What the Firestore job store does when Firestore is silent, gone, or answers too late, over real connections."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import pytest
from google.cloud.firestore import AsyncClient

from serve_app.errors import StoreUnavailable, UnexpectedFailure
from serve_app.jobs import transitions
from serve_app.jobs.firestore import FirestoreJobStore
from serve_app.jobs.model import Job, Status
from serve_app.jobs.session_view import Document
from serve_app.jobs.store import Write
from serve_app.settings_sections import GoogleSettings
from tests.contract.test_job_store import SESSION, SETTINGS, make_job

OPEN, TIMEOUT_S = GoogleSettings(), GoogleSettings(timeout_s=0.3)


class Connection:
    """A TCP relay before the emulator that can keep back answers and drop what runs through it."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._answering = asyncio.Event()
        self._answering.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.address = ""

    async def __aenter__(self) -> Connection:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def keep_back_answers(self) -> None:
        self._answering.clear()

    def answer(self) -> None:
        self._answering.set()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._target.split(":")
        onward_reader, onward_writer = await asyncio.open_connection(host, int(port))
        self._writers |= {writer, onward_writer}
        always = asyncio.Event()
        always.set()
        for source, sink, gate in (
            (reader, onward_writer, always),
            (onward_reader, writer, self._answering),
        ):
            task = asyncio.create_task(_pump(source, sink, gate))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, gate: asyncio.Event) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            await gate.wait()
            sink.write(data)
            await sink.drain()
    sink.transport.abort()


@pytest.fixture
async def connection(emulators: Mapping[str, str]) -> AsyncIterator[Connection]:
    async with Connection(emulators["FIRESTORE_EMULATOR_HOST"]) as relay:
        yield relay


Connect = Callable[..., FirestoreJobStore]


@pytest.fixture
async def connect(emulators: Mapping[str, str]) -> AsyncIterator[Connect]:
    """Makes stores over clients of one project; with an address, by that way instead of straight to the emulator."""
    project = f"demo-{uuid.uuid4().hex[:16]}"
    opened: list[tuple[AsyncClient, FirestoreJobStore]] = []

    def make(address: str | None = None, settings: GoogleSettings = OPEN) -> FirestoreJobStore:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FIRESTORE_EMULATOR_HOST", address or emulators["FIRESTORE_EMULATOR_HOST"])
            client = AsyncClient(project=project)
        opened.append((client, FirestoreJobStore(client, settings)))
        return opened[-1][1]

    yield make
    for client, store in opened:
        await store.close()
        await client._firestore_api.transport.close()


def storing(job: Job) -> Callable[[Job | None, Document | None], Write]:
    return lambda _job, _document: Write(job)


async def test_a_claim_whose_answer_is_lost_is_still_the_claimers(connection: Connection, connect: Connect) -> None:
    direct, relayed = connect(), connect(connection.address)
    await direct.change("edit-a", SESSION, storing(make_job()))
    decisions = 0

    def decide(job: Job | None, _document: Document | None) -> Write:
        nonlocal decisions
        decisions += 1
        assert job is not None
        connection.keep_back_answers()
        return Write(transitions.claim(job, "ours", 110.0, SETTINGS))

    claiming = asyncio.create_task(relayed.claim(110.0, decide))
    while (stored := await direct.get("edit-a")) is None or stored.status is Status.QUEUED:
        await asyncio.sleep(0.01)
    connection.cut()
    connection.answer()
    assert await claiming == await direct.get("edit-a") == stored
    assert (decisions, stored.version, stored.attempts) == (1, 2, 1)


Call = Callable[[FirestoreJobStore], Awaitable[object]]
CALLS: dict[str, Call] = {
    "change": lambda store: store.change("edit-a", SESSION, storing(make_job())),
    "claim": lambda store: store.claim(110.0, lambda _job, _document: None),
    "get": lambda store: store.get("edit-a"),
    "find": lambda store: store.find(status=Status.QUEUED, limit=1),
    "watch": lambda store: anext(store.watch("edit-a")),
    "backlog": lambda store: store.backlog(110.0),
    "get_session": lambda store: store.get_session(SESSION),
    "merge_session": lambda store: store.merge_session(SESSION, lambda _document: {"a": 1}),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_no_call_waits_for_an_answer_that_does_not_come(
    call: Call, connection: Connection, connect: Connect
) -> None:
    connection.keep_back_answers()
    async with asyncio.timeout(20):
        with pytest.raises(StoreUnavailable, match="Firestore did not answer"):
            await call(connect(connection.address, TIMEOUT_S))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_nobody_there_is_an_outage(call: Call, connect: Connect) -> None:
    async with Connection("") as closed:
        address = closed.address
    async with asyncio.timeout(20):
        with pytest.raises(StoreUnavailable, match="Firestore did not answer"):
            await call(connect(address, TIMEOUT_S))


async def test_a_commit_without_an_answer_is_an_outage_and_writes_at_most_once(
    connection: Connection, connect: Connect
) -> None:
    direct, relayed = connect(), connect(connection.address, TIMEOUT_S)

    def decide(_job: Job | None, _document: Document | None) -> Write:
        connection.keep_back_answers()
        return Write(make_job())

    with pytest.raises(StoreUnavailable):
        await relayed.change("edit-a", SESSION, decide)
    connection.answer()
    while (stored := await direct.get("edit-a")) is None:
        await asyncio.sleep(0.01)
    assert stored.version == 1


async def test_a_watch_that_waits_hears_of_an_outage(connection: Connection, connect: Connect) -> None:
    direct, relayed = connect(), connect(connection.address, TIMEOUT_S)
    await direct.change("edit-a", SESSION, storing(make_job()))
    watching = relayed.watch("edit-a")
    assert (await anext(watching)).status is Status.QUEUED
    connection.keep_back_answers()
    async with asyncio.timeout(20):
        with pytest.raises(StoreUnavailable):
            await anext(watching)
    connection.answer()
    await direct.change("edit-a", SESSION, lambda job, _document: job and Write(transitions.cancel(job, 120.0, "no")))
    async with asyncio.timeout(20):
        assert [job.status async for job in relayed.watch("edit-a")] == [Status.CANCELLED]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_cancellation_passes_through(call: Call, connection: Connection, connect: Connect) -> None:
    connection.keep_back_answers()
    calling = asyncio.ensure_future(call(connect(connection.address)))
    await asyncio.wait({calling}, timeout=0.1)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling


async def test_what_firestore_can_never_store_is_a_failure_and_no_outage(connect: Connect) -> None:
    store = connect()
    with pytest.raises(UnexpectedFailure, match="Firestore cannot do what it was asked"):
        await store.change("edit-a", SESSION, storing(make_job(message="x" * 2**21)))
    assert await store.get("edit-a") is None


async def test_what_is_no_job_does_not_stop_the_queue(emulators: Mapping[str, str]) -> None:
    client = AsyncClient(project=f"odd-{uuid.uuid4().hex[:8]}")
    store = FirestoreJobStore(client, OPEN)
    jobs = client.collection(OPEN.jobs_collection)
    for name, odd in (("a", {}), ("b", {"schema": 99}), ("c", {"schema": 1}), ("d", {"schema": "x", "extra": 1})):
        queued = {"status": "queued", "priority": 0, "created_at": 0.0, "not_before": 0.0, "closed": False}
        await jobs.document(name).set({**queued, **odd})
    job = make_job()
    await store.change(job.id, SESSION, lambda _job, _document: Write(job))

    def take(found: Job | None, _document: Document | None) -> Write:
        assert found is not None
        return Write(transitions.claim(found, "t", 110.0, SETTINGS))

    claimed = await store.claim(110.0, take)
    assert claimed is not None
    assert claimed.id == job.id
    await store.close()
