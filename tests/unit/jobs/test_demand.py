"""What the scaling policy and the dashboards are told of the work."""

from __future__ import annotations

import math
from pathlib import Path
from types import MappingProxyType

import pytest

from serve_app.errors import StoreUnavailable
from serve_app.jobs.controls import EMPTY, Controls, Hand, Pause
from serve_app.jobs.demand import WINDOW_S, DemandMeter, count_slots
from serve_app.jobs.model import Lane
from serve_app.jobs.store import Backlog, LaneBacklog
from serve_app.metrics import PlainSink
from serve_app.settings import Settings
from serve_app.settings_sections import JobSettings
from tests.engines import FakeEngine
from tests.tokens import HandClock
from tests.workbench import open_workbench

BACKLOG = Backlog(
    {"flux": 4, "": 1, "draft": 2},
    {"flux": 2},
    {Lane.IMAGES: LaneBacklog(7, 2, oldest_queued_s=9.0, oldest_running_s=5.0)},
)


class FakeStore:
    def __init__(self, backlog: Backlog) -> None:
        self.found = backlog
        self.is_out = False

    async def backlog(self, _now: float) -> Backlog:
        if self.is_out:
            raise StoreUnavailable("out")
        return self.found


def make_meter(store: object, clock: HandClock) -> tuple[DemandMeter, PlainSink]:
    sink = PlainSink()
    deployments = {"flux": "FluxFill", "draft": "Draft"}
    slots = {Lane.IMAGES: 6, Lane.HEADSHOTS: 2}
    return DemandMeter(store, deployments, "flux", slots, 10.0, clock, sink), sink  # type: ignore[arg-type]


def test_slots_of_urgent_jobs_hold_no_others() -> None:
    settings = Settings(jobs=JobSettings(slots=6, urgent_slots=2))
    assert count_slots(settings) == {Lane.IMAGES: 4, Lane.HEADSHOTS: settings.headshots.slots}


async def test_jobs_times_measured_seconds_are_the_backlog() -> None:
    clock = HandClock()
    meter, sink = make_meter(FakeStore(BACKLOG), clock)
    await meter.observe()
    first = meter.describe()
    # Four and the one that names no engine wait, two run and are half done, ten seconds each until some are measured.
    assert (first["jobs:FluxFill"], first["backlog_s:FluxFill"]) == (7.0, 60.0)
    assert (first["jobs:Draft"], first["backlog_s:Draft"]) == (2.0, 20.0)
    meter.record("flux", 4.0)
    assert meter.describe()["backlog_s:FluxFill"] == 24.0, "the first measurement replaces the guess"
    meter.record("flux", 9.0)
    assert meter.describe()["backlog_s:FluxFill"] == pytest.approx(30.0), "the others weigh a fifth"
    meter.record("unknown", 9.0)
    assert sink.value("pawfect_jobs_queued", lane="images") == 7
    assert sink.value("pawfect_jobs_running", lane="images") == 2
    assert sink.value("pawfect_oldest_queued_seconds", lane="images") == 9.0
    assert sink.value("pawfect_oldest_running_seconds", lane="images") == 5.0
    assert sink.value("pawfect_jobs_queued", lane="headshots") == 0
    assert sink.value("pawfect_backlog_seconds", deployment="FluxFill") == 60.0


async def test_nothing_is_said_before_something_is_known() -> None:
    store = FakeStore(BACKLOG)
    store.is_out = True
    meter, _ = make_meter(store, HandClock())
    with pytest.raises(StoreUnavailable):
        await meter.observe()
    assert meter.describe() == {}, "no word of an empty queue"
    store.is_out = False
    await meter.observe()
    assert meter.describe()["jobs:FluxFill"] == 7.0


async def test_a_steady_load_is_as_busy_as_it_is_and_is_forgotten() -> None:
    clock = HandClock()
    meter, _ = make_meter(FakeStore(BACKLOG), clock)
    await meter.observe()
    assert meter.describe()["busy:FluxFill"] == 0.0
    for _ in range(600):  # two replicas' worth: four seconds of work every two seconds
        clock.time += 2
        meter.record("flux", 4.0)
    assert meter.describe()["busy:FluxFill"] == pytest.approx(2.0, rel=0.02)
    clock.time += WINDOW_S
    assert meter.describe()["busy:FluxFill"] == pytest.approx(2.0 / math.e, rel=0.02)


async def test_an_outage_keeps_what_was_known() -> None:
    store = FakeStore(BACKLOG)
    meter, _ = make_meter(store, HandClock())
    await meter.observe()
    store.is_out = True
    with pytest.raises(StoreUnavailable):
        await meter.observe()
    assert meter.describe()["jobs:FluxFill"] == 7.0


async def test_an_outage_is_shown_and_so_is_its_end() -> None:
    store = FakeStore(BACKLOG)
    meter, sink = make_meter(store, HandClock())
    seen = []
    for is_out in (True, False, True):
        store.is_out = is_out
        await meter.refresh()
        seen.append(sink.value("pawfect_store_reachable"))
    assert seen == [0, 1, 0]


async def test_a_store_that_answers_nonsense_is_no_store() -> None:
    meter, sink = make_meter(object(), HandClock())
    await meter.refresh()
    assert sink.value("pawfect_store_reachable") == 0


async def test_statistics_are_numbers_and_have_what_was_set_by_hand() -> None:
    meter, _ = make_meter(FakeStore(BACKLOG), HandClock())
    await meter.observe()
    hands = {"FluxFill": Hand(0.0, "", "ops", pin=3), "Headshots": Hand(0.0, "", "ops", floor=2, until=1.0)}
    found = meter.describe(Controls(None, MappingProxyType(hands)))
    assert found["pin:FluxFill"] == 3.0
    assert found["floor:FluxFill"] == 0.0
    assert "floor:Headshots" not in found, "its time is over"
    assert found["slots:images"] == 6.0
    # Serve drops the statistics of a replica that returns anything else.
    assert all(type(value) is float for value in {**found, **meter.describe(EMPTY)}.values())


async def test_what_waits_for_the_end_of_a_pause_wants_no_replicas() -> None:
    clock = HandClock()
    meter, sink = make_meter(FakeStore(BACKLOG), clock)
    await meter.observe()
    paused = Controls(Pause(clock.now(), "bad weights", "ops", until=clock.now() + 60))
    found = meter.describe(paused)
    assert (found["jobs:FluxFill"], found["backlog_s:FluxFill"]) == (2.0, 10.0), "what runs is finished"
    assert found["jobs:Draft"] == 0.0
    assert sink.value("pawfect_backlog_seconds", deployment="FluxFill") == 60.0, "it is shown all the same"
    clock.time += 60
    assert meter.describe(paused)["jobs:FluxFill"] == 7.0


async def test_a_completed_run_is_measured(tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    async with open_workbench(tmp_path, {"draft": FakeEngine()}) as bench:
        bench.runner._on_work = lambda engine, seconds: seen.append((engine, seconds))
        await bench.put_session()
        job = await bench.finish(await bench.submit())
    assert job.engine == "draft", "the engine is known from the start, so that its backlog can be counted"
    assert [engine for engine, _ in seen] == ["draft"]
