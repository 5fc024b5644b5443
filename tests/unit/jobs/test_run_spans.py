"""The spans of a run, and the lines that are written during it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from serve_app.engines.protocol import EngineResult, FillRequest
from serve_app.errors import EngineFailed
from serve_app.jobs import operations
from serve_app.jobs.model import Status
from serve_app.tracing import begin, read_traceparent
from tests.engines import FakeEngine
from tests.log_lines import capture
from tests.photos import make_mask
from tests.spans import PARENT, SPAN, TRACE, KeptTracing, show_id, show_parent, show_trace
from tests.workbench import Workbench, open_workbench

STAGES = ["download", "decode", "plan", "decode", "plan", "engine", "decode", "composite", "encode", "upload"]


def read(span: ReadableSpan) -> Mapping[str, object]:
    return span.attributes or {}


async def submit(bench: Workbench, tracing: KeptTracing, parent: str | None = PARENT) -> str:
    with begin(tracing.tracer, "request", read_traceparent(parent)):
        job = await bench.submit()
    return (await bench.finish(job)).id


async def test_a_run_is_a_span_with_its_stages_one_after_the_other(tmp_path: Path) -> None:
    tracing, engine = KeptTracing(), FakeEngine()
    async with open_workbench(tmp_path, {"draft": engine}, tracing=tracing) as bench:
        await bench.put_session()
        job_id = await submit(bench, tracing)
    request, queue, job = (tracing.find(name) for name in ("request", "queue", "job"))
    assert {show_trace(span) for span in tracing.spans} == {TRACE}
    assert [show_parent(span) for span in (request, queue, job)] == [SPAN, show_id(request), show_id(request)]
    assert (read(job)["pawfect.job_id"], read(job)["pawfect.attempt"]) == (job_id, 1)
    assert (read(job)["pawfect.outcome"], job.status.is_ok, "error.type" in read(job)) == ("completed", True, False)
    stages = [span for span in tracing.spans if show_parent(span) == show_id(job)]
    assert [span.name for span in sorted(stages, key=lambda span: span.start_time or 0)] == STAGES
    ordered = sorted(stages, key=lambda span: span.start_time or 0)
    slack = 100_000  # of a float that holds a time of today, and of two clocks
    assert all((one.end_time or 0) <= (two.start_time or 0) + slack for one, two in pairwise(ordered))
    assert (job.start_time or 0) <= (ordered[0].start_time or 0) + slack
    assert (ordered[-1].end_time or 0) <= (job.end_time or 0) + slack
    assert engine.requests[0].traceparent is not None
    assert show_id(tracing.find("engine")) in engine.requests[0].traceparent


async def test_each_attempt_is_a_run_and_says_what_was_wrong(tmp_path: Path) -> None:
    tracing = KeptTracing()
    async with open_workbench(tmp_path, {"draft": FakeEngine(EngineFailed("out"))}, tracing=tracing) as bench:
        await bench.put_session()
        await submit(bench, tracing)
    first, second = (span for span in tracing.spans if span.name == "job")
    assert (read(first)["pawfect.outcome"], read(first)["error.type"]) == ("retried", "engine_failed")
    assert (read(second)["pawfect.outcome"], read(second)["pawfect.attempt"]) == ("completed", 2)
    assert not first.status.is_ok
    assert not first.events, "an exception's text is not kept"
    assert read(next(span for span in tracing.spans if span.name == "engine"))["error.type"] == "engine_failed"
    assert len([span for span in tracing.spans if span.name == "queue"]) == 1


async def test_a_stage_that_fails_in_its_thread_is_seen(tmp_path: Path) -> None:
    tracing = KeptTracing()
    async with open_workbench(tmp_path, {"draft": FakeEngine()}, tracing=tracing) as bench:
        await bench.put_session(mask=make_mask(box=None))
        await submit(bench, tracing, None)
    assert read(tracing.find("plan"))["error.type"] == "mask_empty"
    assert read(tracing.find("job"))["error.type"] == "mask_empty"
    assert show_parent(tracing.find("request")) is None


async def test_lines_of_a_run_carry_job_and_trace_also_from_its_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, tracing, log = capture(monkeypatch), KeptTracing(), logging.getLogger("serve_app.test")
    start = operations.start

    def speak(*rest: object, **more: object) -> operations.Started:
        log.info("in the codec's thread")
        return start(*rest, **more)  # type: ignore[arg-type]

    def fail(request: FillRequest) -> EngineResult:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("serve_app.jobs.run.start", speak)
    async with open_workbench(tmp_path, {"draft": FakeEngine(fail)}, tracing=tracing, max_transient=1) as bench:
        await bench.put_session()
        job_id = await submit(bench, tracing)
        job = await bench.service.get(job_id)
    assert job.status is Status.FAILED
    said = {line["message"]: line for line in lines}
    assert {"claimed", "in the codec's thread", "unexpected failure", "job ended"} <= set(said)
    span = show_id(tracing.find("job"))
    for line in lines:
        assert (line["job"], line["trace"], line["attempt"]) == (job_id, TRACE, 1), line
        assert line["logging.googleapis.com/spanId"] == span
    assert "ZeroDivisionError: a defect" in said["unexpected failure"]["stack_trace"]


async def test_what_is_logged_outside_a_run_carries_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = capture(monkeypatch)
    async with open_workbench(tmp_path, {"draft": FakeEngine()}, tracing=KeptTracing()) as bench:
        await bench.put_session()
        await bench.finish(await bench.submit())
        logging.getLogger("serve_app.test").info("outside")
    (line,) = (line for line in lines if line["message"] == "outside")
    assert "job" not in line
    assert "trace" not in line
