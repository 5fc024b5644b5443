"""What the end of a job is counted as."""

from __future__ import annotations

import asyncio
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from serve_app import metrics
from serve_app.engines.loading import LoadState, Phase
from serve_app.engines.protocol import Failed
from serve_app.errors import EngineFailed, PermanentError, TransientError, walk_errors
from serve_app.jobs.catalog import ENGINES
from serve_app.jobs.job_metrics import JobMetrics, find_job_fault, name_reason
from serve_app.jobs.model import Job, Operation, Parameters, Session, Status
from serve_app.metrics import PlainSink
from serve_app.settings import Settings
from serve_app.settings_sections import DEFAULT_QUALITIES
from serve_app.tuning import tune
from tests.engines import FakeEngine
from tests.photos import make_mask
from tests.workbench import Workbench, open_workbench

READY, LOADING = LoadState(Phase.READY, None, 1.0), LoadState(Phase.LOADING, None, 1.0)


def make_job(quality: str = "draft", **changes: Any) -> Job:
    job = Job(
        id="edit-1",
        session=Session("u", "s"),
        original_generation="1",
        mask_generation="2",
        parameters=Parameters(quality, "grass", 1, 0.0),
        created_at=1000.0,
        published_at=990.0,
        deadline_at=4600.0,
        status=Status.COMPLETED,
        finished_at=1050.0,
        stage_seconds={"engine": 3.0},
        cost=0.25,
    )
    return job.evolve(**changes)


def list_series(sink: PlainSink, metric: metrics.Metric) -> dict[tuple[str, ...], float]:
    """Values by the labels' values, in the metric's order; of a histogram the sums."""
    suffix = "_sum" if metric.kind is metrics.Kind.HISTOGRAM else ""
    return {
        tuple(sample.labels[label] for label in metric.labels): sample.value
        for family in sink.registry.collect()
        for sample in family.samples
        if sample.name == metric.name + suffix
    }


def count(job: Job) -> PlainSink:
    sink = PlainSink()
    JobMetrics(sink, Settings()).count(job, ran_here=True)
    return sink


HEADSHOT = {"operation": Operation.HEADSHOT, "session": None}


@pytest.mark.parametrize(
    ("job", "quality", "engine", "source"),
    [
        (make_job(), "draft", "draft", "session"),
        (make_job("high"), "high", "flux", "session"),
        (make_job("high", session=None, engine="flux-base"), "high", "flux-base", "http"),
        (make_job("headshot", **HEADSHOT), "headshot", "headshots", "headshot"),
        (make_job("ultra"), "other", "other", "session"),
        (make_job("high", session=None, engine="dall-e"), "high", "other", "http"),
    ],
)
def test_the_labels_of_a_job_that_ended_well(job: Job, quality: str, engine: str, source: str) -> None:
    sink = count(job)
    assert list_series(sink, metrics.JOBS) == {("completed", quality, engine, source, "none"): 1}
    end = ("completed", quality, engine, source, "unknown")
    assert list_series(sink, metrics.END_TO_END_SECONDS) == {end: 60.0}
    assert list_series(sink, metrics.STAGE_SECONDS) == {("engine", quality, engine): 3.0}
    assert list_series(sink, metrics.COST_USD) == {(quality, engine): 0.25}
    assert list_series(sink, metrics.EDITS) == ({("kept", "unknown"): 1} if source == "session" else {})
    assert list_series(sink, metrics.DEAD_LETTERS) == {}


@pytest.mark.parametrize("kind", [*walk_errors(PermanentError), *walk_errors(TransientError)], ids=lambda k: k.code)
def test_a_failure_is_counted_as_its_class_says(kind: type[PermanentError | TransientError]) -> None:
    sink = count(make_job(status=Status.FAILED, error_code=kind.code))
    assert list_series(sink, metrics.JOBS) == {("failed", "draft", "draft", "session", str(kind.fault)): 1}
    assert list_series(sink, metrics.DEAD_LETTERS) == {(kind.code,): 1}
    assert list_series(sink, metrics.COST_USD) == {}


def test_a_code_that_no_class_has_is_ours_and_no_label() -> None:
    job = make_job(status=Status.FAILED, error_code="Rex ate it")
    assert find_job_fault(job) == "service"
    assert list_series(count(job), metrics.DEAD_LETTERS) == {("unknown",): 1}
    assert name_reason(None) == "unknown"


def test_a_cancellation_is_nobodys_fault() -> None:
    job = make_job(status=Status.CANCELLED, error_code="cancelled", stage_seconds={})
    assert list_series(count(job), metrics.JOBS) == {("cancelled", "draft", "draft", "session", "none"): 1}


def test_a_stage_of_another_version_is_no_label() -> None:
    assert list_series(count(make_job(stage_seconds={"nap": 1.0})), metrics.STAGE_SECONDS) == {}


def test_what_alerts_ask_about_is_there_before_the_first_job() -> None:
    sink = PlainSink()
    counting = JobMetrics(sink, Settings())
    counting.declare()
    jobs = list_series(sink, metrics.JOBS)
    ends = {("completed", "none"), ("failed", "caller"), ("failed", "service"), ("cancelled", "none")}
    table = [(name, row.engine) for name, row in DEFAULT_QUALITIES.items()]
    rows = {(*row, source) for row in table for source in ("session", "http")} | {("headshot", "headshots", "headshot")}
    assert set(jobs) == {(outcome, *row, fault) for row in rows for outcome, fault in ends}
    counting.retune(tune(Settings(), {"qualities": {"quick": DEFAULT_QUALITIES["draft"]}}))
    assert ("completed", "quick", "draft", "session", "none") in list_series(sink, metrics.JOBS)
    assert {name for (name,) in list_series(sink, metrics.ATTEMPTS)} == set(metrics.ATTEMPT_RESULTS)
    reasons = {reason for (reason,) in list_series(sink, metrics.DEAD_LETTERS)}
    assert {"deadline_exceeded", "crashed", "engine_failed", "out_of_memory", "mask_empty", "unknown"} < reasons
    assert set(list_series(sink, metrics.EDITS)) == set(product(("kept", "broken"), ("warm", "cold", "unknown")))
    assert set(list_series(sink, metrics.COST_USD)) == {*table, ("headshot", "headshots"), ("quick", "draft")}
    for metric in (metrics.ENGINE_SECONDS, metrics.GPU_SECONDS):
        assert {engine for (engine,) in list_series(sink, metric)} == set(ENGINES)
    counted = (metrics.DEAD_LETTERS, metrics.EDITS, metrics.COST_USD, metrics.ENGINE_SECONDS, metrics.GPU_SECONDS)
    every = (*jobs.values(), *(value for metric in counted for value in list_series(sink, metric).values()))
    assert set(every) == {0.0}


@pytest.mark.parametrize(("finished_at", "promise"), [(1050.0, "kept"), (1050.1, "broken")])
def test_the_promise_to_the_app_is_a_minute_from_publish(finished_at: float, promise: str) -> None:
    assert list_series(count(make_job(finished_at=finished_at)), metrics.EDITS) == {(promise, "unknown"): 1}


def test_an_edit_that_did_not_end_well_is_counted_by_the_other_promise() -> None:
    assert list_series(count(make_job(status=Status.FAILED, error_code="crashed")), metrics.EDITS) == {}


# -- what a job met ----------------------------------------------------------------------------------------------------


def starts(bench: Workbench) -> list[tuple[str, str]]:
    """Outcome and start of the jobs that ended."""
    return [(labels[0], labels[4]) for labels in list_series(bench.sink, metrics.END_TO_END_SECONDS)]


async def until_counted(bench: Workbench, job: Job) -> None:
    await bench.finish(job)
    await bench.until(job, closed=True)
    async with asyncio.timeout(10):
        while not starts(bench):
            await asyncio.sleep(0.01)


async def test_a_job_whose_engine_was_ready_all_the_time_is_warm(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}) as bench:
        bench.starts.note("draft", READY)
        await bench.put_session()
        await until_counted(bench, await bench.submit())
        assert starts(bench) == [("completed", "warm")]


async def test_a_job_whose_engine_was_loading_when_it_came_is_cold(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with open_workbench(tmp_path, {"draft": engine}) as bench:
        await bench.put_session()
        bench.starts.note("draft", READY)
        job = await bench.submit()
        bench.starts.note("draft", LOADING)
        bench.starts.note("draft", READY)
        engine.gate.set()
        await until_counted(bench, job)
        assert starts(bench) == [("completed", "cold")]


async def test_a_job_that_failed_in_its_run_met_an_engine_too(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}) as bench:
        bench.starts.note("draft", READY)
        await bench.put_session(mask=make_mask(box=None))
        await until_counted(bench, await bench.submit())
        assert starts(bench) == [("failed", "warm")]


async def test_a_job_that_never_ran_met_nothing(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}, start=False) as bench:
        bench.starts.note("draft", READY)
        await bench.put_session()
        job = await bench.submit()
        await bench.service.cancel(job.id)
        assert starts(bench) == [("cancelled", "unknown")]


async def test_a_job_that_was_superseded_in_the_queue_met_nothing(tmp_path: Path) -> None:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}, start=False) as bench:
        bench.starts.note("draft", READY)
        await bench.put_session()
        old = await bench.submit("m1")
        await bench.put_session(mask=make_mask(box=(10, 10, 30, 30)))
        new = await bench.submit("m2")
        bench.lanes.start()
        assert (await bench.finish(old)).status is Status.CANCELLED
        assert (await bench.finish(new)).status is Status.COMPLETED
        await bench.until(new, closed=True)
        async with asyncio.timeout(10):
            while len(starts(bench)) < 2:
                await asyncio.sleep(0.01)
        assert set(starts(bench)) == {("cancelled", "unknown"), ("completed", "warm")}


async def test_every_result_of_a_run_is_one_that_was_declared(tmp_path: Path) -> None:
    turns: list[Any] = [EngineFailed("boom"), [Failed("engine_unavailable", "loading", retryable=True)]]
    async with open_workbench(tmp_path, {"draft": FakeEngine(*turns)}) as bench:
        await bench.put_session()
        job = await bench.submit()
        await bench.finish(job)
        async with asyncio.timeout(10):
            while bench.sink.value("pawfect_attempts_total", result="completed") is None:
                await asyncio.sleep(0.01)
        results = {result for (result,) in list_series(bench.sink, metrics.ATTEMPTS)}
        assert results == {"retried", "postponed", "completed"}
        assert results < set(metrics.ATTEMPT_RESULTS)
