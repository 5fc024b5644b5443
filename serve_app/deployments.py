"""The Ray shells: thin classes around plain objects. Heavy imports happen inside them, on their replicas."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from ray import serve
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import DeploymentStatus, DeploymentStatusOverview, ReplicaState

from serve_app import metrics
from serve_app.clock import SystemClock
from serve_app.engines.loading import Loader, LoadState, Phase
from serve_app.engines.protocol import Event, Failed, FillRequest, Queued
from serve_app.errors import EngineFailed, EngineUnavailable, PawfectError
from serve_app.metrics import RaySink
from serve_app.settings import Settings
from serve_app.stores import open_stores
from serve_app.telemetry import configure_logging

log = logging.getLogger(__name__)

CODEC_THREADS = 2
"""Full frames decoded at one time in an Editor; each can take a few hundred megabytes."""
DRAIN_S = 60.0
"""How long a stopping Editor lets its runs finish; below its graceful_shutdown_timeout_s in serve_config.yaml."""
STATE_INTERVAL_S = 2.0
"""How often an Editor asks the engines for their load state."""
LOAD_POLL_S = 0.1
HANG_FACTOR = 2
"""Times the stage's limit after which a codec thread is taken to hang; it cannot be stopped, only its process can."""


class DraftShell:
    """The CPU engine on a replica. The model loads in a thread, so the replica answers while it loads."""

    def __init__(self, settings: Settings) -> None:
        from serve_app.engines.draft import DraftEngine, load_migan
        from serve_app.weights import locate

        configure_logging(settings.log_level, settings.service_name)
        engines = settings.engines
        self._hang_timeout_s = engines.hang_timeout_s
        self._sink = RaySink()

        def load() -> DraftEngine:
            path = locate("migan", engines.weights_dir.expanduser())
            return DraftEngine(load_migan(path, engines.draft_threads))

        self._loader = Loader(load, name="draft", timeout_s=engines.load_timeout_s, backoff_s=engines.load_backoff_s)
        self._loader.start()

    async def load_state(self) -> LoadState:
        state = self._loader.state()
        self._sink.record(metrics.ENGINE_READY, float(state.phase is Phase.READY), engine="draft")
        if state.phase is Phase.READY:
            self._sink.record(metrics.ENGINE_LOAD_SECONDS, state.seconds, engine="draft")
        return state

    async def fill(self, request: FillRequest) -> AsyncGenerator[Event]:
        from serve_app.engines.streaming import stream

        while self._loader.state().phase is Phase.LOADING:  # noqa: ASYNC110 – the loader lives in another thread
            await asyncio.sleep(LOAD_POLL_S)
        try:
            engine = self._loader.value
        except EngineUnavailable as error:
            yield Failed(error.code, error.message, retryable=True)
            return
        async with contextlib.aclosing(stream(engine, request)) as events:
            async for event in events:
                yield event

    async def check_health(self) -> None:
        """Raises when the replica should be replaced: its model did not load, or hangs."""
        state = self._loader.state()
        if state.phase is Phase.FAILED:
            raise RuntimeError(f"The draft engine did not load: {state.reason}")
        if state.phase is Phase.READY and (busy := self._loader.value.busy_seconds()) > self._hang_timeout_s:
            raise RuntimeError(f"The draft engine has been busy with one crop for {busy:.0f} s.")

    async def stop(self) -> None:
        self._loader.close()
        if self._loader.state().phase is Phase.READY:
            await asyncio.to_thread(self._loader.value.close)


class EngineHandle:
    """An EngineClient behind a Ray handle; Ray's errors are translated here."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle.options(stream=True, method_name="fill")

    async def fill(self, request: FillRequest) -> AsyncGenerator[Event]:
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


class EditorShell:
    """Claims jobs and runs them. `engines` maps engine names to the deployments that serve them."""

    def __init__(self, settings: Settings, engines: Mapping[str, DeploymentHandle[Any]]) -> None:
        from serve_app.jobs.closing import Closer
        from serve_app.jobs.codec_threads import CodecThreads
        from serve_app.jobs.exhaustion import Exhaustion
        from serve_app.jobs.reconciler import Reconciler
        from serve_app.jobs.run import Editing
        from serve_app.jobs.runner import Runner

        configure_logging(settings.log_level, settings.service_name)
        self._engines = dict(engines)
        self._states: dict[str, LoadState | None] = {name: LoadState(Phase.LOADING, None, 0.0) for name in engines}
        self._stores = stores = open_stores(settings)
        clock, sink = SystemClock(), RaySink()
        clients = {name: EngineHandle(handle) for name, handle in engines.items()}
        self._hang_s = settings.jobs.stage_timeout_s * HANG_FACTOR
        self._threads = CodecThreads(CODEC_THREADS, clock)
        editing = Editing(stores.jobs, stores.photos, clients, settings, clock, self._threads)
        closer = Closer(stores.jobs, stores.dead_letters, sink)
        reconciler = Reconciler(stores.jobs, closer, clock, sink)
        self._runner = Runner(stores.jobs, editing, closer, settings.jobs, clock, sink)
        self._runner.start()
        self._tasks = [asyncio.create_task(reconciler.run()), asyncio.create_task(self._watch_engines())]
        if stores.exhausted is not None:
            self._tasks.append(asyncio.create_task(Exhaustion(stores.exhausted, stores.jobs).run()))

    async def nudge(self) -> None:
        self._runner.nudge()

    async def load_states(self) -> dict[str, LoadState | None]:
        """Each engine's state as last heard; None for one scaled to zero."""
        return self._states

    async def check_health(self) -> None:
        """Raises when the replica should be replaced: nothing is claimed any more, or a photo hangs in its decoder."""
        if not self._runner.is_alive:
            raise RuntimeError("The claim loop has ended.")
        if (busy := self._threads.busy_seconds()) > self._hang_s:
            raise RuntimeError(f"A photo has been in its decoder or encoder for {busy:.0f} s.")

    async def stop(self) -> None:
        await self._runner.drain(DRAIN_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.close()
        await self._stores.close()

    async def _watch_engines(self) -> None:
        while True:
            for name, handle in self._engines.items():
                try:
                    self._states[name] = await _ask_state(handle, self._states[name])
                except Exception:
                    log.exception("the state of an engine could not be read", extra={"engine": name})
            await asyncio.sleep(STATE_INTERVAL_S)


async def _ask_state(handle: DeploymentHandle[Any], last: LoadState | None) -> LoadState | None:
    """An engine's state: what a replica says; None when Serve wants none; loading while none runs."""
    name = handle.deployment_name
    overview = await asyncio.to_thread(_look_up, name)
    if overview is None or not (running := overview.replica_states.get(ReplicaState.RUNNING, 0)):
        if overview is not None and overview.status == DeploymentStatus.HEALTHY and not overview.replica_states:
            return None  # scaled to zero; asking it would wake it
        return LoadState(Phase.LOADING, f"No replica of {name} runs.", 0.0)
    try:
        state: LoadState = await asyncio.wait_for(_call_load_state(handle), STATE_INTERVAL_S * 2)
    except TimeoutError:
        # A saturated engine has no place for the question either: if it was ready, it still is.
        if last is not None and last.phase is Phase.READY:
            return last
        return LoadState(Phase.LOADING, f"None of {running} replicas of {name} answers.", 0.0)
    except (RayError, RayServeException) as error:
        return LoadState(Phase.LOADING, f"{name} does not answer: {type(error).__name__}.", 0.0)
    return state


async def _call_load_state(handle: DeploymentHandle[Any]) -> Any:
    return await handle.load_state.remote()


def _look_up(deployment: str) -> DeploymentStatusOverview | None:
    application = serve.status().applications[serve.get_replica_context().app_name]
    return application.deployments.get(deployment)


# Serve awaits the `__del__` of a replica it stops. Only these have one: Python itself would not await it.


class _DraftReplica(DraftShell):
    async def __del__(self) -> None:
        await self.stop()


class _EditorReplica(EditorShell):
    async def __del__(self) -> None:
        await self.stop()


Draft = serve.deployment(_DraftReplica, name="Draft")
Editor = serve.deployment(_EditorReplica, name="Editor")
