"""`/health`, `/healthz`: this process answers, and which version it is. `/ready`: an edit sent now can be done."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import BaseModel

from ingress.services import Provided
from serve_app import __version__

router = APIRouter(tags=["probes"])


class Alive(BaseModel):
    status: str = "alive"
    version: str = __version__


class Ready(BaseModel):
    ready: bool
    state: str
    reason: str | None
    engines: dict[str, str]


@router.get("/healthz")
@router.get("/health")
async def show_health() -> Alive:
    return Alive()


@router.get("/ready", responses={503: {"model": Ready}})
async def show_readiness(services: Provided, response: Response) -> Ready:
    """503 with state and reason until the default quality's engine can serve; scaled to zero counts as ready."""
    readiness = await services.readiness()
    response.status_code = 200 if readiness.is_ready else 503
    return Ready(
        ready=readiness.is_ready, state=readiness.state, reason=readiness.reason, engines=dict(readiness.engines)
    )
