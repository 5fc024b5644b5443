"""Engines through Ray as an Editor sees them: calls, errors and states; the handles are held without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayError
from ray.serve._private.common import DeploymentID, DeploymentStatusTrigger
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.schema import DeploymentStatus, DeploymentStatusOverview

from serve_app.deployments import handles
from serve_app.deployments.handles import EngineHandle, ask_state, is_failing
from serve_app.engines.loading import LoadState, Phase
from serve_app.engines.protocol import FillRequest, Queued, Step
from serve_app.errors import EngineFailed, EngineUnavailable
from tests.shells import REQUEST


class FakeHandle:
    """A deployment handle whose stream plays events and errors."""

    def __init__(self, *script: Any) -> None:
        self.script = script
        self.cancelled = False

    def options(self, **_: Any) -> FakeHandle:
        return self

    def remote(self, _request: FillRequest) -> FakeHandle:
        return self

    async def __aiter__(self) -> AsyncIterator[Any]:
        for item in self.script:
            if isinstance(item, Exception):
                raise item
            yield item

    def cancel(self) -> None:
        self.cancelled = True


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ([BackPressureError(num_queued_requests=1, max_queued_requests=1)], EngineUnavailable),
        ([ActorDiedError()], EngineUnavailable),
        ([Queued(0), ActorDiedError()], EngineUnavailable),
        ([Queued(0), Step(0, 1), ActorDiedError()], EngineFailed),
        ([Queued(0), RayError("odd")], EngineFailed),
    ],
)
async def test_rays_errors_are_translated(script: list[Any], kind: type[Exception]) -> None:
    handle = FakeHandle(*script)
    with pytest.raises(kind):
        async for _ in EngineHandle(handle).run(REQUEST):  # type: ignore[arg-type]
            pass
    assert handle.cancelled


async def test_leaving_a_handles_stream_cancels_the_call() -> None:
    handle = FakeHandle(Queued(0), Queued(1))
    events = EngineHandle(handle).run(REQUEST)  # type: ignore[arg-type]
    await anext(events)
    await events.aclose()
    assert handle.cancelled


class FakeEngineHandle:
    deployment_name = "Draft"

    def __init__(self, answer: LoadState | Exception | None, *first: LoadState) -> None:
        """`first` are answered before it, one after the other."""
        self.load_state = self
        self.answer = answer
        self.first = list(first)

    async def remote(self) -> LoadState:
        if self.first:
            return self.first.pop(0)
        if self.answer is None:
            await asyncio.sleep(60)
        if isinstance(self.answer, Exception):
            raise self.answer
        assert self.answer is not None
        return self.answer


READY = LoadState(Phase.READY, None, 1.0)


@pytest.mark.parametrize(
    ("status", "replicas", "answer", "last", "phase", "words"),
    [
        ("HEALTHY", {}, RayError("must not be asked"), READY, None, ""),
        ("UPDATING", {"STARTING": 1}, RayError("must not be asked"), READY, Phase.LOADING, "No replica of Draft runs"),
        ("UNHEALTHY", {}, RayError("must not be asked"), READY, Phase.LOADING, "No replica of Draft runs"),
        ("HEALTHY", {"RUNNING": 1}, READY, None, Phase.READY, ""),
        ("HEALTHY", {"RUNNING": 1}, None, READY, Phase.READY, ""),
        ("HEALTHY", {"RUNNING": 1}, None, None, Phase.LOADING, "None of 1 replicas of Draft answers"),
        ("HEALTHY", {"RUNNING": 1}, DeploymentUnavailableError(DeploymentID("Draft")), READY, Phase.LOADING, "Draft"),
        ("HEALTHY", {"RUNNING": 1}, ActorDiedError(), READY, Phase.LOADING, "Draft does not answer"),
    ],
)
async def test_an_engine_is_ready_only_while_a_replica_runs(
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    replicas: dict[str, int],
    answer: LoadState | Exception | None,
    last: LoadState | None,
    phase: Phase | None,
    words: str,
) -> None:
    trigger = next(iter(DeploymentStatusTrigger))
    overview = DeploymentStatusOverview(
        DeploymentStatus(status),
        trigger,
        replicas,
        "",  # type: ignore[arg-type]
    )
    monkeypatch.setattr(handles, "STATE_INTERVAL_S", 0.02)
    state = await ask_state(FakeEngineHandle(answer), overview, last)  # type: ignore[arg-type]
    assert (state.phase if state else None) is phase
    assert words in ((state.reason if state else "") or "")


LOADING = LoadState(Phase.LOADING, None, 1.0)


@pytest.mark.parametrize(("running", "phase"), [(1, Phase.LOADING), (2, Phase.READY)])
async def test_of_several_replicas_a_ready_one_is_looked_for(running: int, phase: Phase) -> None:
    overview = DeploymentStatusOverview(
        DeploymentStatus("HEALTHY"),
        next(iter(DeploymentStatusTrigger)),
        {"RUNNING": running},  # type: ignore[dict-item]
        "",
    )
    handle = FakeEngineHandle(READY, LOADING, LOADING)
    state = await ask_state(handle, overview, None)  # type: ignore[arg-type]
    assert state is not None
    assert state.phase is phase
    assert len(handle.first) == 2 - min(2, 3 * running - 2), "one replica is asked once"


FAILED = LoadState(Phase.FAILED, "no such checkpoint", 1.0)


@pytest.mark.parametrize(
    ("trigger", "replicas", "answers", "phase", "times"),
    [
        ("UNSPECIFIED", {"RUNNING": 1}, (FAILED,), Phase.FAILED, 1),
        ("UNSPECIFIED", {"RUNNING": 2}, (FAILED, LOADING, READY), Phase.READY, 1),
        ("UNSPECIFIED", {"RUNNING": 1}, (LOADING,), Phase.LOADING, 0),
        ("REPLICA_STARTUP_FAILED", {"STARTING": 1}, (READY,), Phase.LOADING, 1),
        ("HEALTH_CHECK_FAILED", {"STARTING": 1}, (READY,), Phase.LOADING, 0),
    ],
)
async def test_a_load_that_failed_is_told(
    trigger: str, replicas: dict[str, int], answers: tuple[LoadState, ...], phase: Phase, times: int
) -> None:
    overview = DeploymentStatusOverview(
        DeploymentStatus("UNHEALTHY"),
        DeploymentStatusTrigger(trigger),
        replicas,  # type: ignore[arg-type]
        "",
    )
    told: list[None] = []
    handle: Any = FakeEngineHandle(answers[-1], *answers[:-1])
    state = await ask_state(handle, overview, None, on_failed=lambda: told.append(None))
    assert state is not None
    assert (state.phase, len(told)) == (phase, times)


@pytest.mark.parametrize(("status", "failing"), [("HEALTHY", False), ("UNHEALTHY", True), ("DEPLOY_FAILED", True)])
def test_a_deployment_fails_as_serve_says(status: str, failing: bool) -> None:
    trigger = next(iter(DeploymentStatusTrigger))
    assert is_failing(DeploymentStatusOverview(DeploymentStatus(status), trigger, {}, "")) is failing
    assert not is_failing(None)


def test_a_load_state_crosses_processes() -> None:
    import pickle

    state = LoadState(Phase.FAILED, "no", 1.0)
    assert pickle.loads(pickle.dumps(state)) == state  # noqa: S301
