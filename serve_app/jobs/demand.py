"""What the scaling policy is told of the work: by each Editor, from the store and from what it has measured itself.

Statistics are numbers under names, `name_key(kind, deployment)`:

- `jobs`: those that wait for the deployment or run on it, `backlog_s`: the replica seconds they will take, counting
  half of those that run. Figures of the whole store. During a pause those that wait are left out: nothing claims them,
  and replicas held for them would cost their price for as long as it lasts.
- `busy`: replicas that the work which this Editor saw end kept busy, on the average of the last minutes.
- `pin`, `floor`: what somebody set by hand, 0 when nobody did.
- `starting`: replicas of the deployment that have not run yet, as Serve says.
- `slots`, by lane: jobs that this Editor holds at a time, without the places that only urgent ones may take.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from types import MappingProxyType

from serve_app import metrics
from serve_app.clock import Clock
from serve_app.errors import StoreUnavailable
from serve_app.jobs.controls import EMPTY, Controls
from serve_app.jobs.model import Lane
from serve_app.jobs.store import Backlog, JobStore
from serve_app.metrics import Sink
from serve_app.settings import Settings

log = logging.getLogger(__name__)

JOBS, BACKLOG, BUSY, PIN, FLOOR, SLOTS = "jobs", "backlog_s", "busy", "pin", "floor", "slots"
STARTING = "starting"
NOTHING: Mapping[str, int] = MappingProxyType({})
SEPARATOR = ":"

INTERVAL_S = 3.0
"""How often the store is asked for its backlog; the first two of its reads when nothing waits or runs."""
WINDOW_S = 120.0
"""Time constant of `busy`: a load that came and went is forgotten in some minutes."""
WEIGHT = 0.2
"""Of a new measurement of an engine's seconds per job, against all before."""
RUNNING_SHARE = 0.5
"""Of its time that a running job still has before it, on the average."""


def name_key(kind: str, deployment: str) -> str:
    return f"{kind}{SEPARATOR}{deployment}"


def count_slots(settings: Settings) -> dict[Lane, int]:
    """What an Editor says of its `slots`."""
    return {Lane.IMAGES: settings.jobs.slots - settings.jobs.urgent_slots, Lane.HEADSHOTS: settings.headshots.slots}


class Measured:
    """An engine's seconds per job and how busy it was kept, from the jobs that one Editor saw end."""

    def __init__(self, first_estimate_s: float) -> None:
        self.seconds = first_estimate_s
        self._is_measured = False
        self._busy = 0.0
        self._at = float("-inf")

    def record(self, now: float, seconds: float) -> None:
        self.seconds += (seconds - self.seconds) * (WEIGHT if self._is_measured else 1.0)
        self._is_measured = True
        self._busy = self.find_busy(now) + seconds / WINDOW_S
        self._at = now

    def find_busy(self, now: float) -> float:
        return self._busy * math.exp(-(now - self._at) / WINDOW_S) if self._busy else 0.0


class DemandMeter:
    """`deployments` maps the engines that run here to their deployments; `default` is that of the default quality,
    whose jobs do not name it in records of earlier versions."""

    def __init__(
        self,
        store: JobStore,
        deployments: Mapping[str, str],
        default: str,
        slots: Mapping[Lane, int],
        first_estimate_s: float,
        clock: Clock,
        sink: Sink,
    ) -> None:
        self._store = store
        self._deployments = deployments
        self._default = default
        self._slots = slots
        self._clock = clock
        self._sink = sink
        self._measured = {engine: Measured(first_estimate_s) for engine in deployments}
        self._backlog: Backlog | None = None

    async def run(self) -> None:
        while True:
            await self.refresh()
            await asyncio.sleep(INTERVAL_S)

    async def refresh(self) -> None:
        """Observe, and show whether that could be done: without the store nobody knows of a queue to alert about."""
        is_reachable = False
        try:
            await self.observe()
            is_reachable = True
        except StoreUnavailable as error:
            log.warning("the backlog is not known: %s", error)
        except Exception:
            log.exception("defect in the demand meter")
        self._sink.record(metrics.STORE_REACHABLE, float(is_reachable))

    async def observe(self) -> None:
        """Raises StoreUnavailable, and what was known stays."""
        self._backlog = backlog = await self._store.backlog(self._clock.now())
        for lane in Lane:
            shown = backlog.lanes.get(lane)
            self._sink.record(metrics.JOBS_QUEUED, shown.queued if shown else 0, lane=str(lane))
            self._sink.record(metrics.JOBS_RUNNING, shown.running if shown else 0, lane=str(lane))
            self._sink.record(metrics.OLDEST_QUEUED_SECONDS, shown.oldest_queued_s if shown else 0.0, lane=str(lane))
            self._sink.record(metrics.OLDEST_RUNNING_SECONDS, shown.oldest_running_s if shown else 0.0, lane=str(lane))
        for engine, deployment in self._deployments.items():
            self._sink.record(metrics.BACKLOG_SECONDS, self._count(engine)[1], deployment=deployment)

    def record(self, engine: str, seconds: float) -> None:
        """A job has ended that this engine worked on for so long."""
        if engine in self._measured:
            self._measured[engine].record(self._clock.monotonic(), seconds)

    def describe(self, controls: Controls = EMPTY, starting: Mapping[str, int] = NOTHING) -> dict[str, float]:
        """The statistics, as the module's docstring lists them; `starting` by deployment. None before the store has
        answered for the first time, since "nothing waits" would have replicas that are on their way given up."""
        if self._backlog is None:
            return {}
        found: dict[str, float] = {}
        # What waits for the end of a pause needs no replicas meanwhile.
        is_paused = controls.find_pause(self._clock.now()) is not None
        for engine, deployment in self._deployments.items():
            jobs, seconds = self._count(engine, with_queued=not is_paused)
            found[name_key(JOBS, deployment)], found[name_key(BACKLOG, deployment)] = jobs, seconds
            found[name_key(BUSY, deployment)] = self._measured[engine].find_busy(self._clock.monotonic())
        for deployment, count in starting.items():
            found[name_key(STARTING, deployment)] = float(count)
        for lane, slots in self._slots.items():
            found[name_key(SLOTS, str(lane))] = float(slots)
        for deployment, hand in controls.list_hands(self._clock.now()).items():
            found[name_key(PIN, deployment)] = float(hand.pin or 0)
            found[name_key(FLOOR, deployment)] = float(hand.floor or 0)
        return found

    def _count(self, engine: str, *, with_queued: bool = True) -> tuple[float, float]:
        """Jobs and seconds of backlog."""
        names = (engine, "") if engine == self._default else (engine,)
        backlog = self._backlog or Backlog()
        queued = sum(backlog.queued_by_engine.get(name, 0) for name in names) if with_queued else 0
        running = sum(backlog.running_by_engine.get(name, 0) for name in names)
        return float(queued + running), (queued + running * RUNNING_SHARE) * self._measured[engine].seconds
