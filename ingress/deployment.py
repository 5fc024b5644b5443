"""The ingress as a Ray Serve deployment: the services, built on its replica, with the HTTP application around them."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from ingress.api import create_app
from ingress.services import Services
from serve_app.clock import SystemClock
from serve_app.engines.readiness import Readiness, judge, unavailable
from serve_app.errors import StoreUnavailable
from serve_app.jobs.service import JobService
from serve_app.metrics import RaySink
from serve_app.settings import Settings
from serve_app.stores import open_stores
from serve_app.telemetry import configure_logging

EDITOR_ANSWER_S = 3.0
"""An Editor answers in milliseconds; longer means that there is none yet, or that its loop is blocked."""


class IngressShell:
    def __init__(self, settings: Settings, editor: DeploymentHandle[Any]) -> None:
        configure_logging(settings.log_level, settings.service_name)
        self._settings = settings
        self._editor = editor
        self._clock = SystemClock()
        self._stores = open_stores(settings)

    def __serve_build_asgi_app__(self) -> FastAPI:
        stores = self._stores
        return create_app(
            Services(
                settings=self._settings,
                jobs=JobService(stores.jobs, stores.photos, self._settings, self._clock),
                dead_letters=stores.dead_letters,
                readiness=self._assess,
                nudge=self._nudge,
                sink=RaySink(),
                clock=self._clock,
            )
        )

    def _nudge(self) -> None:
        self._editor.nudge.remote()

    async def _assess(self) -> Readiness:
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
