"""The Editor on a replica: the claim loop around the stores, and what it knows of its engines."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ray.serve.handle import DeploymentHandle

from serve_app.clock import SystemClock
from serve_app.deployments.handles import STATE_INTERVAL_S, EngineHandle, ask_state
from serve_app.engines.loading import LoadState, Phase
from serve_app.ray_metrics import RaySink
from serve_app.settings import Settings
from serve_app.stores import open_stores
from serve_app.telemetry import configure_logging

log = logging.getLogger(__name__)

CODEC_THREADS = 2
"""Full frames decoded at one time in an Editor; each can take a few hundred megabytes."""
DRAIN_S = 60.0
"""How long a stopping Editor lets its runs finish; below its graceful_shutdown_timeout_s in serve_config.yaml."""
HANG_FACTOR = 2
"""Times the stage's limit after which a codec thread is taken to hang; it cannot be stopped, only its process can."""


class EditorShell:
    """Claims jobs and runs them. `engines` maps engine names to the deployments that serve them; `_idle` are those that
    nothing is sent to."""

    def __init__(
        self,
        settings: Settings,
        engines: Mapping[str, DeploymentHandle[Any]],
        _idle: Sequence[DeploymentHandle[Any]] = (),
    ) -> None:
        from serve_app.jobs.closing import Closer
        from serve_app.jobs.codec_threads import CodecThreads
        from serve_app.jobs.exhaustion import Exhaustion
        from serve_app.jobs.expiry import Expiry
        from serve_app.jobs.headshot_orders import HeadshotSubmitter
        from serve_app.jobs.lanes import Lanes
        from serve_app.jobs.reconciler import Reconciler
        from serve_app.jobs.run import Editing
        from serve_app.jobs.service import JobService

        configure_logging(settings.log_level, settings.service_name)
        self._engines = dict(engines)
        self._states: dict[str, LoadState | None] = {name: LoadState(Phase.LOADING, None, 0.0) for name in engines}
        self._stores = stores = open_stores(settings)
        clock, sink = SystemClock(), RaySink()
        clients = {name: EngineHandle(handle) for name, handle in engines.items()}
        self._hang_s = settings.jobs.stage_timeout_s * HANG_FACTOR
        self._threads = CodecThreads(CODEC_THREADS, clock)
        editing = Editing(stores.jobs, stores.photos, stores.links, clients, settings, clock, self._threads)
        closer = Closer(stores.jobs, stores.dead_letters, sink)
        reconciler = Reconciler(stores.jobs, closer, clock, sink)
        self._lanes = Lanes(stores.jobs, editing, closer, settings, clock, sink)
        self._lanes.start()
        expiry = Expiry(stores.jobs, stores.photos, clock)
        work = (reconciler.run(), expiry.run(), self._watch_engines())
        self._tasks = [asyncio.create_task(each) for each in work]
        if stores.exhausted is not None:
            jobs = JobService(stores.jobs, stores.photos, closer, settings, clock)
            headshots = HeadshotSubmitter(jobs, stores.photos, stores.originals_bucket, settings, clock)
            exhaustion = Exhaustion(stores.exhausted, stores.jobs, headshots.refuse)
            self._tasks.append(asyncio.create_task(exhaustion.run()))

    async def nudge(self) -> None:
        self._lanes.nudge()

    async def load_states(self) -> dict[str, LoadState | None]:
        """Each engine's state as last heard; None for one scaled to zero."""
        return self._states

    async def check_health(self) -> None:
        """Raises when the replica should be replaced: nothing is claimed any more, or a photo hangs in its decoder."""
        if not self._lanes.are_alive:
            raise RuntimeError("A claim loop has ended.")
        if (busy := self._threads.busy_seconds()) > self._hang_s:
            raise RuntimeError(f"A photo has been in its decoder or encoder for {busy:.0f} s.")

    async def stop(self) -> None:
        await self._lanes.drain(DRAIN_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.close()
        await self._stores.close()

    async def _watch_engines(self) -> None:
        while True:
            for name, handle in self._engines.items():
                try:
                    self._states[name] = await ask_state(handle, self._states[name])
                except Exception:
                    log.exception("the state of an engine could not be read", extra={"engine": name})
            await asyncio.sleep(STATE_INTERVAL_S)
