"""Pauses and numbers set by hand: in force, ended, read by replicas, obeyed by the queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from serve_app.engines.protocol import Event, FillRequest, Queued
from serve_app.errors import Paused, StoreUnavailable
from serve_app.jobs.controls import EMPTY, Controls, ControlsWatch, Hand, Pause, from_document, to_document
from serve_app.jobs.model import Progress, Session, Stage, Status
from serve_app.metrics import PlainSink
from tests.engines import FakeEngine
from tests.tokens import HandClock
from tests.workbench import open_workbench

OTHER = Session("user", "other")
HAND = Hand(0.0, "", "ops", floor=1)
PAUSE = Pause(0.0, "bad weights", "ops", until=100.0)


class FakeControls:
    def __init__(self, controls: Controls = EMPTY) -> None:
        self.controls = controls
        self.is_out = False

    async def read(self) -> Controls:
        if self.is_out:
            raise StoreUnavailable("out")
        return self.controls


def make_watch(store: FakeControls, clock: HandClock) -> tuple[ControlsWatch, PlainSink]:
    sink = PlainSink()
    return ControlsWatch(store, clock, sink, ("FluxFill",)), sink  # type: ignore[arg-type]


def test_what_is_set_ends_by_itself() -> None:
    controls = Controls(PAUSE, MappingProxyType({"FluxFill": Hand(0.0, "", "ops", floor=2, until=50.0)}))
    assert controls.find_pause(99.9) == PAUSE
    assert controls.find_pause(100.0) is None
    assert list(controls.list_hands(49.9)) == ["FluxFill"]
    assert controls.list_hands(50.0) == {}


def test_documents_say_all_of_it() -> None:
    controls = Controls(PAUSE, MappingProxyType({"Editor": Hand(1.0, "why", "who", pin=2)}))
    assert from_document(to_document(controls)) == controls
    assert from_document(None) == EMPTY


def test_what_a_newer_version_adds_does_not_end_a_pause() -> None:
    controls = Controls(PAUSE, MappingProxyType({"Editor": HAND}))
    document = to_document(controls)
    document["pause"]["ticket"] = document["replicas"]["Editor"]["ticket"] = document["banner"] = "x"
    assert from_document(document) == controls


async def test_a_replica_that_shows_no_deployments_leaves_the_numbers_to_others() -> None:
    store, sink = FakeControls(Controls(replace(PAUSE, until=None), MappingProxyType({"Editor": HAND}))), PlainSink()
    await ControlsWatch(store, HandClock(), sink).refresh()  # type: ignore[arg-type]
    assert sink.value("pawfect_paused") == 1
    assert sink.value("pawfect_replicas_by_hand", deployment="other", kind="floor") is None


async def test_a_replica_obeys_what_it_read_last() -> None:
    clock = HandClock()
    clock.time = 10.0
    store = FakeControls()
    watch, sink = make_watch(store, clock)
    assert watch.is_paused, "a replica that starts during a pause must not work before it knows"
    assert not watch.has_pause, "nor is anybody's time prolonged on a guess"
    with pytest.raises(Paused, match="starting"):
        watch.check()
    await watch.refresh()
    assert not watch.is_paused
    watch.check()
    store.controls = Controls(PAUSE, MappingProxyType({"FluxFill": Hand(0.0, "", "ops", pin=2), "Other": HAND}))
    await watch.refresh()
    with pytest.raises(Paused, match="bad weights"):
        watch.check()
    assert sink.value("pawfect_paused") == 1
    assert sink.value("pawfect_replicas_by_hand", deployment="FluxFill", kind="pin") == 2
    assert sink.value("pawfect_replicas_by_hand", deployment="FluxFill", kind="floor") == -1
    assert sink.value("pawfect_replicas_by_hand", deployment="other", kind="floor") == 1, (
        "no name from a document becomes a label"
    )
    store.is_out = True
    await watch.refresh()
    assert watch.is_paused, "an outage changes nothing"
    clock.time = 100.0
    await watch.refresh()
    assert not watch.is_paused, "its time is over, whether the store answers or not"
    assert sink.value("pawfect_paused") == 0


async def test_the_first_read_ends_the_wait_even_without_an_answer() -> None:
    store = FakeControls()
    store.is_out = True
    watch, _ = make_watch(store, HandClock())
    await watch.refresh()
    assert not watch.is_paused


async def test_a_pause_claims_nothing_and_lets_what_runs_finish(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        paused = False
        bench.runner._is_paused = lambda: paused
        bench.service._is_paused = lambda: paused
        await bench.put_session()
        running = await bench.submit()
        await bench.until(running, progress=Progress(Stage.ENGINE, steps=1))
        paused = True
        await bench.put_session(session=OTHER)
        waiting = await bench.submit("m2", session=OTHER)
        started = time.monotonic()
        assert await bench.service.wait(waiting.id, 60) is None, "whoever waits for a queued job is told at once"
        assert time.monotonic() - started < 30
        engine.gate.set()
        await bench.until(running, status=Status.COMPLETED)
        bench.runner.nudge()
        await asyncio.sleep(0.3)
        found = await bench.stores.jobs.get(waiting.id)
        assert found is not None
        assert (found.status, found.attempts) == (Status.QUEUED, 0)
        paused = False
        bench.runner.nudge()
        await bench.until(waiting, status=Status.COMPLETED)


class NoPlace(FakeEngine):
    """Says `said` and has no place, while its gate is closed."""

    def __init__(self, *said: Event) -> None:
        super().__init__()
        self.said = said

    async def run(self, request: FillRequest) -> AsyncGenerator[Event]:
        for event in self.said:
            yield event
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.left += 1
            raise
        async for event in super().run(request):
            yield event


@pytest.mark.parametrize(("said", "position"), [((), None), ((Queued(3),), 3)], ids=["no replica", "others first"])
async def test_a_pause_gives_back_what_no_engine_has_begun(
    tmp_path: Path, said: tuple[Event, ...], position: int | None
) -> None:
    engine = NoPlace(*said)
    engine.gate.clear()
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        paused = False
        bench.runner._is_paused = lambda: paused
        await bench.put_session()
        job = await bench.until(await bench.submit(), progress=Progress(Stage.ENGINE, position=position))
        paused = True
        job = await bench.until(job, status=Status.QUEUED)
        assert (job.crashes, job.transient_failures, job.error, engine.left) == (0, 0, None, 1)
        assert bench.sink.value("pawfect_attempts_total", result="released") == 1
        engine.gate.set()
        paused = False
        bench.runner.nudge()
        await bench.until(job, status=Status.COMPLETED)


async def test_a_pause_is_not_counted_against_what_was_published(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}, start=False) as bench:
        await bench.put_session()
        job = await bench.submit(deadline_s=0.05)
        await asyncio.sleep(0.1)
        bench.reconciler._is_paused = lambda: True
        await bench.reconciler.sweep()
        found = await bench.stores.jobs.get(job.id)
        assert found is not None
        assert found.status is Status.QUEUED
        assert found.deadline_at > time.time() + 3000


@pytest.mark.parametrize(("deadline_s", "is_prolonged"), [(60.0, True), (3000.0, True), (3500.0, False)])
async def test_what_waits_when_a_pause_ends_has_time_left(
    tmp_path: Path, deadline_s: float, is_prolonged: bool
) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}, start=False) as bench:
        await bench.put_session()
        job = await bench.submit(deadline_s=deadline_s)
        bench.reconciler._is_paused = lambda: True
        await bench.reconciler.sweep()
        found = await bench.stores.jobs.get(job.id)
        assert found is not None
        assert (found.deadline_at > job.deadline_at) is is_prolonged
        await bench.reconciler.sweep()
        assert await bench.stores.jobs.get(job.id) == found, "once is enough"
