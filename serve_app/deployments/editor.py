"""The Editor on a replica: the claim loop around the stores, and what it knows of its engines."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ray.serve.handle import DeploymentHandle
from ray.serve.schema import DeploymentStatusOverview

from serve_app import metrics
from serve_app.clock import SystemClock
from serve_app.deployments.handles import REPLICA_STATES, STATE_INTERVAL_S, EngineHandle, ask_state, is_failing, look_up
from serve_app.deployments.load_failures import LoadFailures
from serve_app.deployments.prompt_encoder import NAME as ENCODER_NAME
from serve_app.engines.loading import LoadState, Phase
from serve_app.engines.starts import Starts
from serve_app.ray_metrics import RaySink
from serve_app.settings import Settings
from serve_app.stores import open_stores
from serve_app.telemetry import configure_logging
from serve_app.tracing import open_tracing
from serve_app.tuning import try_to_tune

if TYPE_CHECKING:
    from serve_app.jobs.demand import DemandMeter
    from serve_app.jobs.lanes import Lanes
    from serve_app.jobs.run import Editing

log = logging.getLogger(__name__)

CODEC_THREADS = 2
"""Full frames decoded at one time in an Editor; each can take a few hundred megabytes."""
OWN_NAME = "Editor"
ENCODER = "PromptEncoder"
"""It runs no engine, yet its replicas can be set by hand."""
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
        from serve_app.jobs.controls import ControlsWatch
        from serve_app.jobs.job_metrics import JobMetrics

        configure_logging(settings.log_level, settings.service_name, settings.project_id)
        self._tracing = open_tracing(settings, "editor")
        self._settings = settings
        self._engines = dict(engines)
        self._deployments = {name: handle.deployment_name for name, handle in engines.items()}
        self._starting: dict[str, int] = {}
        self._states: dict[str, LoadState | None] = {name: LoadState(Phase.LOADING, None, 0.0) for name in engines}
        self._stores = stores = open_stores(settings)
        self._clock, self._sink = SystemClock(), RaySink()
        self._starts = Starts(self._clock)
        self._load_failures = LoadFailures(self._clock, self._sink)
        self._counting = JobMetrics(self._sink, settings, self._starts)
        self._counting.declare()
        self._hang_s = settings.jobs.stage_timeout_s * HANG_FACTOR
        self._threads = CodecThreads(CODEC_THREADS, self._clock)
        shown = (*self._deployments.values(), ENCODER, OWN_NAME)
        self._controls = ControlsWatch(stores.controls, self._clock, self._sink, shown)
        self._closer = Closer(stores.jobs, stores.dead_letters, self._counting)
        self._editing = self._make_editing()
        self._demand = self._make_demand()
        self._lanes = self._make_lanes()
        self._lanes.start()
        self._tasks = [asyncio.create_task(each) for each in self._list_work()]

    def _make_editing(self) -> Editing:
        from serve_app.jobs.run import Editing

        stores, clients = self._stores, {name: EngineHandle(handle) for name, handle in self._engines.items()}
        return Editing(
            stores.jobs,
            stores.photos,
            stores.links,
            clients,
            self._settings,
            self._clock,
            self._threads,
            self._tracing.tracer,
        )

    def _make_demand(self) -> DemandMeter:
        from serve_app.jobs.demand import DemandMeter, count_slots

        settings = self._settings
        return DemandMeter(
            self._stores.jobs,
            self._deployments,
            settings.qualities[settings.quality].engine,
            count_slots(settings),
            settings.engines.first_estimate_s,
            self._clock,
            self._sink,
        )

    def _make_lanes(self) -> Lanes:
        from serve_app.jobs.lanes import Lanes

        return Lanes(
            self._stores.jobs,
            self._editing,
            self._closer,
            self._settings,
            self._clock,
            self._sink,
            self._tracing.tracer,
            is_paused=self._is_paused,
            on_work=self._demand.record,
        )

    def _list_work(self) -> list[Coroutine[Any, Any, None]]:
        """What goes on beside the claim loops, until the replica is stopped."""
        from serve_app.jobs.exhaustion import Exhaustion
        from serve_app.jobs.expiry import Expiry
        from serve_app.jobs.headshot_orders import HeadshotSubmitter
        from serve_app.jobs.reconciler import Reconciler
        from serve_app.jobs.service import JobService

        stores, settings, clock = self._stores, self._settings, self._clock
        reconciler = Reconciler(stores.jobs, self._closer, settings.jobs, clock, lambda: self._controls.has_pause)
        expiry = Expiry(stores.jobs, stores.photos, clock)
        work = [self._controls.run(), self._demand.run(), reconciler.run(), expiry.run(), self._watch_engines()]
        if stores.exhausted is not None:
            jobs = JobService(stores.jobs, stores.photos, self._closer, settings, clock)
            headshots = HeadshotSubmitter(jobs, stores.photos, stores.originals_bucket, settings, clock)
            work.append(Exhaustion(stores.exhausted, stores.jobs, headshots.refuse).run())
        return work

    def reconfigure(self, user_config: Mapping[str, Any] | None) -> None:
        """Serve calls it at the start and when `user_config` changes; see `tuning`."""
        if (tuned := try_to_tune(self._settings, user_config)) is not None:
            self._editing.retune(tuned)
            self._counting.retune(tuned)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What the scaling policy goes by; Serve collects it every second or so."""
        return self._demand.describe(self._controls.current, self._starting)

    def _is_paused(self) -> bool:
        return self._controls.is_paused

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
        await self._lanes.drain(self._settings.jobs.drain_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.close()
        await self._stores.close()
        await asyncio.to_thread(self._tracing.close)

    async def _watch_engines(self) -> None:
        while True:
            try:
                deployments = await asyncio.to_thread(look_up)
                self._show_replicas(deployments)
                if is_failing(deployments.get(ENCODER)):
                    self._load_failures.note(ENCODER_NAME)
                for name, handle in self._engines.items():
                    overview = deployments.get(handle.deployment_name)
                    failed = partial(self._load_failures.note, name)
                    self._states[name] = await ask_state(handle, overview, self._states[name], on_failed=failed)
                    self._starts.note(name, self._states[name])
            except Exception:
                log.exception("the state of the engines could not be read")
            self._load_failures.show((*self._engines, ENCODER_NAME))
            self._sink.record(metrics.GPU_HOUR_USD, self._settings.engines.gpu_hour_usd)
            await asyncio.sleep(STATE_INTERVAL_S)

    def _show_replicas(self, deployments: Mapping[str, DeploymentStatusOverview]) -> None:
        for name, overview in deployments.items():
            for state, counted in REPLICA_STATES.items():
                count = sum(overview.replica_states.get(each, 0) for each in counted)
                self._sink.record(metrics.REPLICAS, count, deployment=name, state=state)
                if state == "starting":
                    self._starting[name] = count
