"""The ingress as a Ray Serve deployment: the services, built on its replica, with the HTTP application around them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from ingress.api import create_app
from ingress.auth import choose_trust
from ingress.rate_limits import RateLimits
from ingress.replica import is_ending
from ingress.routes.push import declare_pushes
from ingress.services import Services
from serve_app.clock import SystemClock
from serve_app.engines.readiness import Readiness, judge, unavailable
from serve_app.errors import StoreUnavailable
from serve_app.jobs.closing import Closer
from serve_app.jobs.controls import ControlsWatch
from serve_app.jobs.headshot_orders import HeadshotSubmitter
from serve_app.jobs.job_metrics import JobMetrics
from serve_app.jobs.service import JobService
from serve_app.jobs.submission import Submitter
from serve_app.ray_metrics import RaySink
from serve_app.settings import Settings
from serve_app.stores import open_stores
from serve_app.telemetry import configure_logging
from serve_app.tracing import open_tracing
from serve_app.tuning import try_to_tune

END_POLL_S = 1.0
"""How often a replica asks Serve whether it is being stopped."""
NO_JOB = "readiness"
"""Asked for to see whether the job store answers."""
READINESS_AGE_S = 1.0
"""How old an answer to /ready may be."""
EDITOR_ANSWER_S = 3.0
"""An Editor answers in milliseconds; longer means that there is none yet, or that its loop is blocked."""


class IngressShell:
    def __init__(self, settings: Settings, editor: DeploymentHandle[Any]) -> None:
        configure_logging(settings.log_level, settings.service_name, settings.project_id)
        self._tracing = open_tracing(settings, "ingress")
        self._settings = settings
        self._editor = editor
        self._clock = SystemClock()
        self._trust = choose_trust(settings, self._clock, os.environ)
        self._stores = open_stores(settings)
        self._sink = RaySink()
        declare_pushes(self._sink)
        self._controls = ControlsWatch(self._stores.controls, self._clock, self._sink)
        self._stopping = asyncio.Event()
        self._limits = RateLimits()
        self._app = create_app(self._make_services(settings))
        self._asking, self._assessed_at, self._readiness = asyncio.Lock(), float("-inf"), unavailable("Starting.")
        work = (self._controls.run(), self._notice_end())
        self._tasks = [asyncio.create_task(each) for each in work]

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app

    def reconfigure(self, user_config: Mapping[str, Any] | None) -> None:
        """Serve calls it at the start and when `user_config` changes; see `tuning`. Requests that are being answered go
        on with what they began with."""
        if (tuned := try_to_tune(self._settings, user_config)) is not None:
            self._app.state.services = self._make_services(tuned)

    def _make_services(self, settings: Settings) -> Services:
        stores, clock = self._stores, self._clock
        closer = Closer(stores.jobs, stores.dead_letters, JobMetrics(self._sink, settings))
        jobs = JobService(
            stores.jobs,
            stores.photos,
            closer,
            settings,
            clock,
            stopping=self._stopping,
            is_paused=lambda: self._controls.is_paused,
        )
        return Services(
            settings=settings,
            jobs=jobs,
            submitter=Submitter(stores.jobs, stores.photos, settings, clock),
            headshots=HeadshotSubmitter(jobs, stores.photos, stores.originals_bucket, settings, clock),
            photos=stores.photos,
            links=stores.links,
            dead_letters=stores.dead_letters,
            readiness=self._assess,
            nudge=self._nudge,
            sink=self._sink,
            clock=clock,
            trust=self._trust,
            controls=self._controls,
            limits=self._limits,
            tracing=self._tracing,
        )

    async def __del__(self) -> None:
        """Awaited by Serve when it stops the replica."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stores.close()
        await asyncio.to_thread(self._tracing.close)

    def _nudge(self) -> None:
        self._editor.nudge.remote()

    async def _notice_end(self) -> None:
        """Serve tells no replica that it is being stopped, neither with the whole application nor to be replaced;
        requests that wait for a job which lies in the queue would hold it until it is killed."""
        while not self._stopping.is_set():
            await asyncio.sleep(END_POLL_S)
            with contextlib.suppress(Exception):  # the controller may be gone first
                if await asyncio.to_thread(is_ending):
                    self._stopping.set()

    async def _assess(self) -> Readiness:
        """As found less than a second ago, and by one question at a time: anybody may ask, as often as he likes."""
        async with self._asking:
            if self._clock.monotonic() - self._assessed_at > READINESS_AGE_S:
                self._readiness = await self._find_readiness()
                self._assessed_at = self._clock.monotonic()
            return self._readiness

    async def _find_readiness(self) -> Readiness:
        settings = self._app.state.services.settings
        engine = settings.qualities[settings.quality].engine
        try:
            await self._stores.jobs.get(NO_JOB)
            states = await asyncio.wait_for(_ask(self._editor), EDITOR_ANSWER_S)
        except StoreUnavailable as error:
            return unavailable(error.message)
        except TimeoutError:
            return unavailable("No Editor answers yet.")
        except Exception as error:
            return unavailable(f"The Editor cannot be asked: {type(error).__name__}.")
        return judge(engine, states)


async def _ask(editor: DeploymentHandle[Any]) -> Any:
    return await editor.load_states.remote()


Ingress = serve.deployment(serve.ingress()(IngressShell), name="Ingress")
