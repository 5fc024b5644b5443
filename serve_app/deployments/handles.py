"""Engines as an Editor sees them through Ray: calls with Ray's errors translated, and their state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from ray import serve
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import DeploymentStatus, DeploymentStatusOverview, DeploymentStatusTrigger, ReplicaState

from serve_app.engines.loading import LoadState, Phase
from serve_app.engines.protocol import Event, Queued, Request
from serve_app.errors import EngineFailed, EngineUnavailable, PawfectError

STATE_INTERVAL_S = 2.0
"""How often an Editor asks the engines for their load state."""
QUESTIONS = 3
"""Per further replica that a deployment has; four questions miss one of two replicas once in sixteen times."""


class EngineHandle:
    """An EngineClient behind a Ray handle; Ray's errors are translated here."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle.options(stream=True, method_name="run")

    async def run(self, request: Request) -> AsyncGenerator[Event]:
        events = self._handle.remote(request)
        begun = finished = False
        try:
            async for event in events:
                begun = begun or not isinstance(event, Queued)  # a request that only waited has not met the engine
                yield event
            finished = True
        except (BackPressureError, DeploymentUnavailableError, ActorUnavailableError) as error:
            raise EngineUnavailable(f"No engine replica took the photo: {type(error).__name__}.") from error
        except ActorDiedError as error:
            kind: type[PawfectError] = EngineFailed if begun else EngineUnavailable
            raise kind("The engine replica died while it had the photo.") from error
        except RayError as error:
            raise EngineFailed(f"The engine failed: {error}") from error
        finally:
            if not finished:
                events.cancel()


REPLICA_STATES: Mapping[str, tuple[ReplicaState, ...]] = {
    "running": (ReplicaState.RUNNING, ReplicaState.UPDATING, ReplicaState.PENDING_MIGRATION),
    "starting": (ReplicaState.STARTING, ReplicaState.RECOVERING),
    "stopping": (ReplicaState.STOPPING,),
}
"""Serve's states by what an operator calls them."""


async def ask_state(
    handle: DeploymentHandle[Any],
    overview: DeploymentStatusOverview | None,
    last: LoadState | None,
    *,
    on_failed: Callable[[], None] = lambda: None,
) -> LoadState | None:
    """An engine's state: what a replica says; None when Serve wants none; loading while none runs. `on_failed` is told
    of a replica whose model did not load, also where another one is ready."""
    name = handle.deployment_name
    if overview is None or not (running := overview.replica_states.get(ReplicaState.RUNNING, 0)):
        if overview is not None and overview.status == DeploymentStatus.HEALTHY and not overview.replica_states:
            return None  # scaled to zero; asking it would wake it
        if overview is not None and overview.status_trigger == DeploymentStatusTrigger.REPLICA_STARTUP_FAILED:
            on_failed()  # the load had failed before Serve's first health check, so that no replica ever runs
        return LoadState(Phase.LOADING, f"No replica of {name} runs.", 0.0)
    try:
        state = await asyncio.wait_for(_ask_replicas(handle, running, on_failed), STATE_INTERVAL_S * 2)
    except TimeoutError:
        # A saturated engine has no place for the question either: if it was ready, it still is.
        if last is not None and last.phase is Phase.READY:
            return last
        return LoadState(Phase.LOADING, f"None of {running} replicas of {name} answers.", 0.0)
    except (RayError, RayServeException) as error:
        return LoadState(Phase.LOADING, f"{name} does not answer: {type(error).__name__}.", 0.0)
    return state


async def _ask_replicas(handle: DeploymentHandle[Any], running: int, on_failed: Callable[[], None]) -> LoadState:
    """What a ready replica says, if one is met. Ray chooses who is asked, so several may be: while an engine grows, one
    replica loads beside one that is ready."""
    left = QUESTIONS * (running - 1)
    while True:
        state: LoadState = await handle.load_state.remote()
        if state.phase is Phase.FAILED:
            on_failed()
        if state.phase is Phase.READY or not left:
            return state
        left -= 1


def is_failing(overview: DeploymentStatusOverview | None) -> bool:
    """Whether Serve cannot bring up a deployment's replicas, or keep them."""
    return overview is not None and overview.status in (DeploymentStatus.UNHEALTHY, DeploymentStatus.DEPLOY_FAILED)


def look_up() -> Mapping[str, DeploymentStatusOverview]:
    """Every deployment of this replica's application, as Serve has it."""
    deployments: Mapping[str, DeploymentStatusOverview] = (
        serve.status().applications[serve.get_replica_context().app_name].deployments
    )
    return deployments
