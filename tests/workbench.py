"""A whole service in one process without Ray: the real stores, runner and codecs, and engines of the test's choice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pawfect.sessions import Backend
from serve_app.clock import SystemClock
from serve_app.engines.protocol import EngineClient
from serve_app.engines.starts import Starts
from serve_app.jobs.closing import Closer
from serve_app.jobs.codec_threads import CodecThreads
from serve_app.jobs.headshot_orders import HeadshotSubmitter
from serve_app.jobs.job_metrics import JobMetrics
from serve_app.jobs.lanes import Lanes
from serve_app.jobs.model import Job, Lane, Session
from serve_app.jobs.reconciler import Reconciler
from serve_app.jobs.run import Editing
from serve_app.jobs.runner import Runner
from serve_app.jobs.service import EditOrder, JobService
from serve_app.metrics import PlainSink
from serve_app.settings import Settings
from serve_app.settings_sections import JobSettings
from serve_app.stores import Stores, open_stores
from serve_app.tracing import Tracing
from tests.photos import make_mask, make_photo

SESSION = Session("user", "session")
QUICK = {"claim_poll_s": 0.02, "retry_backoff_s": 0.01, "progress_interval_s": 0.05}


@dataclass
class Workbench:
    settings: Settings
    stores: Stores
    service: JobService
    lanes: Lanes
    reconciler: Reconciler
    sink: PlainSink
    backend: Backend
    threads: CodecThreads
    starts: Starts

    async def put_session(
        self, photo: bytes | None = None, mask: bytes | None = None, session: Session = SESSION
    ) -> None:
        await self.backend.create(session, photo or make_photo(), mask or make_mask())

    async def submit(self, delivery: str = "m1", session: Session = SESSION, **options: Any) -> Job:
        job = await self.service.submit(EditOrder(session, delivery, **options))
        self.runner.nudge()
        return job

    @property
    def headshots(self) -> HeadshotSubmitter:
        stores = self.stores
        return HeadshotSubmitter(self.service, stores.photos, stores.originals_bucket, self.settings, SystemClock())

    @property
    def runner(self) -> Runner:
        """That of edits and images."""
        return self.lanes.runners[Lane.IMAGES]

    def nudge(self) -> None:
        self.lanes.nudge()

    async def finish(self, job: Job, timeout_s: float = 20) -> Job:
        ended = await self.service.wait(job.id, timeout_s)
        assert ended is not None, "the job did not end in time"
        return ended

    async def until(self, job: Job, **state: Any) -> Job:
        """Wait for attributes of a job, e.g. status=Status.PROCESSING."""
        async with asyncio.timeout(20):
            while True:
                found = await self.service._store.get(job.id)
                assert found is not None
                if all(getattr(found, name) == value for name, value in state.items()):
                    return found
                await asyncio.sleep(0.01)


@asynccontextmanager
async def open_workbench(
    root: Path,
    engines: Mapping[str, EngineClient],
    *,
    start: bool = True,
    tracing: Tracing | None = None,
    **jobs: Any,
) -> AsyncIterator[Workbench]:
    settings = Settings(data_dir=root, jobs=JobSettings(**{**QUICK, **jobs}))
    stores, clock, sink = open_stores(settings), SystemClock(), PlainSink()
    threads, tracer = CodecThreads(2, clock), (tracing or Tracing()).tracer
    editing = Editing(stores.jobs, stores.photos, stores.links, engines, settings, clock, threads, tracer)
    starts = Starts(clock)
    closer = Closer(stores.jobs, stores.dead_letters, JobMetrics(sink, settings, starts))
    reconciler = Reconciler(stores.jobs, closer, settings.jobs, clock)
    lanes = Lanes(stores.jobs, editing, closer, settings, clock, sink, tracer)
    service = JobService(stores.jobs, stores.photos, closer, settings, clock)
    backend = Backend(root)
    if start:
        lanes.start()
    try:
        yield Workbench(settings, stores, service, lanes, reconciler, sink, backend, threads, starts)
    finally:
        await lanes.drain(0)
        threads.close()
        backend.close()
        await stores.close()
