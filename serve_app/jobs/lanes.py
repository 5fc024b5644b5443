"""The claim loops of an Editor, one for each lane, so that neither holds the other up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from opentelemetry.trace import Tracer

from serve_app.clock import Clock
from serve_app.jobs.closing import Closer
from serve_app.jobs.model import Lane
from serve_app.jobs.run import Editing
from serve_app.jobs.runner import OnWork, Runner
from serve_app.jobs.store import JobStore
from serve_app.metrics import Sink
from serve_app.settings import Settings


class Lanes:
    def __init__(
        self,
        store: JobStore,
        editing: Editing,
        closer: Closer,
        settings: Settings,
        clock: Clock,
        sink: Sink,
        tracer: Tracer | None = None,
        *,
        is_paused: Callable[[], bool] = lambda: False,
        on_work: OnWork = lambda _engine, _seconds: None,
    ) -> None:
        slots = {Lane.IMAGES: None, Lane.HEADSHOTS: settings.headshots.slots}
        self.runners: Mapping[Lane, Runner] = {
            lane: Runner(
                store,
                editing,
                closer,
                settings.jobs,
                clock,
                sink,
                lane,
                slots[lane],
                tracer,
                is_paused=is_paused,
                on_work=on_work,
            )
            for lane in Lane
        }

    def start(self) -> None:
        for runner in self.runners.values():
            runner.start()

    @property
    def are_alive(self) -> bool:
        return all(runner.is_alive for runner in self.runners.values())

    def nudge(self) -> None:
        """Say that there may be something to claim."""
        for runner in self.runners.values():
            runner.nudge()

    async def drain(self, timeout_s: float) -> None:
        """As `Runner.drain`, all at once."""
        await asyncio.gather(*(runner.drain(timeout_s) for runner in self.runners.values()))
