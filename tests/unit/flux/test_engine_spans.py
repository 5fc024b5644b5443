"""What a FLUX engine says of the time it spends on a request."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.flux.stepping import Work
from tests.flux_fakes import FakePrompts, make_fill
from tests.flux_lockstep import LockStep
from tests.log_lines import capture
from tests.spans import PARENT, SPAN, TRACE, KeptTracing, show_parent, show_trace

OTHER = "00-11111111111111111111111111111111-2222222222222222-01"
SECOND = 1_000_000_000


def show(tracing: KeptTracing, trace: str) -> list[tuple[str, int, int, dict[str, Any]]]:
    """Name, start and end in seconds, and attributes but the engine's name."""
    found = [span for span in tracing.spans if show_trace(span) == trace]
    return [
        (
            span.name,
            (span.start_time or 0) // SECOND,
            (span.end_time or 0) // SECOND,
            {name: value for name, value in (span.attributes or {}).items() if name != "pawfect.engine"},
        )
        for span in found
    ]


def test_every_call_of_the_model_is_a_span_of_its_request() -> None:
    tracing = KeptTracing()
    bench = LockStep(trace=tracing)
    bench.clock.time = 100.0
    bench.submit(make_fill(steps=2, seed=7, traceparent=PARENT))
    while bench.call is not None:
        bench.finish(seconds=3)
    bench.close()
    assert show(tracing, TRACE) == [
        ("prompt", 100, 100, {}),
        ("encode", 100, 103, {"pawfect.crop": 0}),
        ("step", 103, 106, {"pawfect.crop": 0, "pawfect.step": 1, "pawfect.steps": 2, "pawfect.batch_rows": 1}),
        ("step", 106, 109, {"pawfect.crop": 0, "pawfect.step": 2, "pawfect.steps": 2, "pawfect.batch_rows": 1}),
        ("decode", 109, 112, {"pawfect.crop": 0}),
    ]
    assert {show_parent(span) for span in tracing.spans} == {SPAN}


def test_a_shared_step_is_a_span_of_each_that_wants_one() -> None:
    tracing = KeptTracing()
    bench = LockStep(trace=tracing)
    for number, parent in enumerate((PARENT, OTHER, None, PARENT[:-2] + "00")):
        bench.submit(make_fill(f"job-{number}", steps=1, seed=number, traceparent=parent))
    while bench.call is not None:
        bench.finish(seconds=1)
    bench.close()
    mine, others = show(tracing, TRACE), show(tracing, "1" * 32)
    steps = [attributes["pawfect.batch_rows"] for name, *_, attributes in (*mine, *others) if name == "step"]
    assert len(steps) == 2
    assert max(steps) > 1
    assert len(mine) + len(others) == len(tracing.spans), "nothing of those without a trace, or with one not kept"


def test_a_prompt_is_waited_for_in_a_span() -> None:
    tracing = KeptTracing()
    bench = LockStep(trace=tracing, prompts=FakePrompts(slow=("grass",)))
    bench.clock.time = 50.0
    bench.submit(make_fill(steps=1, prompt="grass", traceparent=PARENT))
    bench.pass_time(20)
    assert tracing.spans == []
    bench.prompts.finish("grass")
    bench.settle()
    assert show(tracing, TRACE) == [("prompt", 50, 70, {})]
    bench.close()


def test_lines_of_a_failed_call_carry_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = capture(monkeypatch)
    bench = LockStep()
    bench.submit(make_fill("job-1/1", steps=1, seed=1, traceparent=PARENT))
    bench.finish_until(Work.STEP, 1)
    bench.finish(RuntimeError("bad"))
    bench.close()
    (line,) = (line for line in lines if line["severity"] == "ERROR")
    assert (line["job"], line["trace"]) == ("job-1", TRACE)
    assert "RuntimeError: bad" in line["stack_trace"]
