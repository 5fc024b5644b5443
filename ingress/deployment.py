"""The ingress as a Ray Serve deployment: the services, built on its replica, with the HTTP application around them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus

from ingress.api import create_app
from ingress.auth import choose_trust
from ingress.services import Services
from serve_app.clock import SystemClock
from serve_app.engines.readiness import Readiness, judge, unavailable
from serve_app.errors import StoreUnavailable
from serve_app.jobs.closing import Closer
from serve_app.jobs.headshot_orders import HeadshotSubmitter
from serve_app.jobs.service import JobService
from serve_app.jobs.submission import Submitter
from serve_app.ray_metrics import RaySink
from serve_app.settings import Settings
from serve_app.stores import open_stores
from serve_app.telemetry import configure_logging

DELETION_POLL_S = 1.0
"""How often a replica asks Serve whether the application is being deleted."""
READINESS_AGE_S = 1.0
"""How old an answer to /ready may be."""
EDITOR_ANSWER_S = 3.0
"""An Editor answers in milliseconds; longer means that there is none yet, or that its loop is blocked."""


class IngressShell:
    def __init__(self, settings: Settings, editor: DeploymentHandle[Any]) -> None:
        configure_logging(settings.log_level, settings.service_name)
        self._settings = settings
        self._editor = editor
        self._clock = SystemClock()
        self._trust = choose_trust(settings, self._clock, os.environ)
        self._stores = open_stores(settings)
        self._sink = RaySink()
        closer = Closer(self._stores.jobs, self._stores.dead_letters, self._sink)
        self._jobs = JobService(self._stores.jobs, self._stores.photos, closer, settings, self._clock)
        self._submitter = Submitter(self._stores.jobs, self._stores.photos, settings, self._clock)
        self._headshots = HeadshotSubmitter(
            self._jobs, self._stores.photos, self._stores.originals_bucket, settings, self._clock
        )
        self._asking, self._assessed_at, self._readiness = asyncio.Lock(), float("-inf"), unavailable("Starting.")
        self._deletion = asyncio.create_task(self._notice_deletion(), name="notice-deletion")

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(
            Services(
                settings=self._settings,
                jobs=self._jobs,
                submitter=self._submitter,
                headshots=self._headshots,
                photos=self._stores.photos,
                links=self._stores.links,
                dead_letters=self._stores.dead_letters,
                readiness=self._assess,
                nudge=self._nudge,
                sink=self._sink,
                clock=self._clock,
                trust=self._trust,
            )
        )

    async def __del__(self) -> None:
        """Awaited by Serve when it stops the replica."""
        self._deletion.cancel()
        await asyncio.gather(self._deletion, return_exceptions=True)
        await self._stores.close()

    def _nudge(self) -> None:
        self._editor.nudge.remote()

    async def _notice_deletion(self) -> None:
        """Serve stops all deployments of an application at once and tells none of them; requests that wait for a job
        which no Editor will claim any more would hold this replica until it is killed."""
        name = serve.get_replica_context().app_name
        while True:
            await asyncio.sleep(DELETION_POLL_S)
            with contextlib.suppress(Exception):  # the controller may be gone first
                status = await asyncio.to_thread(serve.status)
                if status.applications[name].status == ApplicationStatus.DELETING:
                    self._jobs.stop_waiting()
                    return

    async def _assess(self) -> Readiness:
        """As found less than a second ago, and by one question at a time: anybody may ask, as often as he likes."""
        async with self._asking:
            if self._clock.monotonic() - self._assessed_at > READINESS_AGE_S:
                self._readiness = await self._find_readiness()
                self._assessed_at = self._clock.monotonic()
            return self._readiness

    async def _find_readiness(self) -> Readiness:
        engine = self._settings.qualities[self._settings.quality].engine
        try:
            await self._stores.jobs.backlog(self._clock.now())
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
