"""What the routes are made of, and how a request gets at it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from ingress.auth import Trust, Visitor
from ingress.rate_limits import RateLimits
from serve_app.clock import Clock
from serve_app.engines.readiness import Readiness
from serve_app.jobs.controls import ControlsWatch
from serve_app.jobs.dead_letters import DeadLetters
from serve_app.jobs.headshot_orders import HeadshotSubmitter
from serve_app.jobs.service import JobService
from serve_app.jobs.submission import Submitter
from serve_app.metrics import Sink
from serve_app.photos.links import Links
from serve_app.photos.store import PhotoStore
from serve_app.settings import Settings
from serve_app.tracing import Tracing


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes are made of. `nudge` tells the Editors that there is work; it must not block or raise."""

    settings: Settings
    jobs: JobService
    submitter: Submitter
    headshots: HeadshotSubmitter
    photos: PhotoStore
    links: Links
    dead_letters: DeadLetters
    readiness: Callable[[], Awaitable[Readiness]]
    nudge: Callable[[], None]
    sink: Sink
    clock: Clock
    trust: Trust
    controls: ControlsWatch
    limits: RateLimits = field(default_factory=RateLimits, kw_only=True)
    tracing: Tracing = field(default_factory=Tracing, kw_only=True)

    @asynccontextmanager
    async def submitting(self, caller: Visitor) -> AsyncIterator[None]:
        """Around whatever takes on work for a caller. Raises Paused, and TooManyRequests."""
        self.controls.check()
        async with self.limits.submitting(caller, self.jobs):
            yield


def get_services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Provided = Annotated[Services, Depends(get_services)]
