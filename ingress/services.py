"""What the routes are made of, and how a request gets at it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from serve_app.clock import Clock
from serve_app.engines.readiness import Readiness
from serve_app.errors import BodyTooLarge
from serve_app.jobs.dead_letters import DeadLetters
from serve_app.jobs.service import JobService
from serve_app.metrics import Sink
from serve_app.settings import Settings


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes are made of. `nudge` tells the Editors that there is work; it must not block or raise."""

    settings: Settings
    jobs: JobService
    dead_letters: DeadLetters
    readiness: Callable[[], Awaitable[Readiness]]
    nudge: Callable[[], None]
    sink: Sink
    clock: Clock


def get_services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Provided = Annotated[Services, Depends(get_services)]


async def read_body(request: Request, limit: int) -> bytes:
    """Raises BodyTooLarge as soon as more than `limit` bytes are announced or have come."""
    announced = request.headers.get("content-length", "")
    body = bytearray()
    if announced.isdecimal() and int(announced) > limit:
        raise BodyTooLarge(f"The body has {announced} bytes; at most {limit} are accepted.")
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise BodyTooLarge(f"The body has more than the {limit} bytes that are accepted.")
    return bytes(body)
