"""Looks at a running cluster at regular times: replicas by state, the queue, and what each replica has done."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import httpx

from bench.completions import Completions, Queue
from bench.ray_cluster import RayCluster
from bench.scrape import sum_by

INTERVAL_S = 0.5
SLOW_INTERVAL_S = 2.0
"""Between two looks at what changes slowly, or costs the cluster something: placement and metrics."""
WORK = ("ray_pawfect_engine_tick_seconds_count", "decode")
"""The metric, and its label, of which each finished picture counts once on the replica that made it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """`wanted` is Serve's target; a replica that waits for a GPU is starting."""

    at: float
    wanted: int
    running: int
    starting: int
    stopping: int
    queue: Queue


@dataclass(frozen=True, slots=True)
class Placement:
    """Replica → GPU → share, and replica → pictures made so far."""

    at: float
    shares: Mapping[str, Mapping[str, float]]
    done: Mapping[str, float]

    def count_by_gpu(self) -> Counter[str]:
        return Counter(gpu for shares in self.shares.values() for gpu in shares)

    def fill_by_gpu(self) -> dict[str, float]:
        """How much of each GPU is taken."""
        sums: defaultdict[str, float] = defaultdict(float)
        for shares in self.shares.values():
            for gpu, share in shares.items():
                sums[gpu] += share
        return dict(sums)


@dataclass
class Sampler:
    """Of one deployment, the only one that takes GPUs."""

    cluster: RayCluster
    store: Completions
    deployment: str
    samples: list[Sample] = field(default_factory=list)
    placements: list[Placement] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._sample()), asyncio.create_task(self._look_slowly())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def wait_for(self, wanted: Callable[[Sample], bool], patience_s: float) -> float:
        """Seconds until a sample is as wanted. Raises TimeoutError."""
        start = time.time()
        async with asyncio.timeout(patience_s):
            while not (self.samples and self.samples[-1].at >= start and wanted(self.samples[-1])):
                await asyncio.sleep(INTERVAL_S / 2)
        return self.samples[-1].at - start

    async def _sample(self) -> None:
        while True:
            found = (await self.cluster.read_status())[self.deployment]
            queue = await asyncio.to_thread(self.store.read_queue)
            sample = Sample(
                time.time(),
                found.wanted,
                found.count("RUNNING"),
                found.count("STARTING", "UPDATING", "RECOVERING"),
                found.count("STOPPING"),
                queue,
            )
            self.samples.append(sample)
            await asyncio.sleep(INTERVAL_S)

    async def _look_slowly(self) -> None:
        metric, work = WORK
        while True:
            with contextlib.suppress(httpx.TransportError):  # one look less
                page = await self.cluster.read_metrics()
                done = sum_by(page, metric, "replica", work=work, deployment=self.deployment)
                self.placements.append(Placement(time.time(), await self.cluster.read_gpus(), done))
            await asyncio.sleep(SLOW_INTERVAL_S)
