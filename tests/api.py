"""The HTTP application around the real stores and runner, without Ray; the engines are scripted."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from starlette.requests import HTTPConnection

from ingress.api import create_app
from ingress.auth import LocalTrust, Trust, VerifiedCaller, VerifiedSender
from ingress.services import Services
from serve_app.clock import SystemClock
from serve_app.engines.loading import LoadState, Phase
from serve_app.engines.readiness import Readiness, judge
from serve_app.jobs.controls import ControlsWatch
from serve_app.jobs.submission import Submitter
from serve_app.photos.links import Links
from serve_app.tracing import Tracing
from tests.engines import FakeEngine
from tests.workbench import Workbench, open_workbench


@dataclass
class Api:
    http: httpx.AsyncClient
    bench: Workbench
    engine: FakeEngine
    states: dict[str, LoadState | None]
    controls: ControlsWatch

    async def push(self, data: Any, message_id: str = "m1") -> httpx.Response:
        text = data if isinstance(data, str) else base64.b64encode(json.dumps(data).encode()).decode()
        return await self.http.post("/inpaint", json={"message": {"messageId": message_id, "data": text}})


class NamedCallers:
    """Takes everybody at his word: the header `caller` says who calls, and without it nobody does."""

    async def verify_sender(self, connection: HTTPConnection) -> VerifiedSender:
        return VerifiedSender("local")

    async def verify_caller(self, connection: HTTPConnection) -> VerifiedCaller:
        if name := connection.headers.get("caller"):
            return VerifiedCaller(name)
        return await LocalTrust().verify_caller(connection)


@asynccontextmanager
async def open_api(
    root: Path,
    *,
    start: bool = True,
    trust: Trust | None = None,
    ingress: Mapping[str, Any] | None = None,
    links: Links | None = None,
    tracing: Tracing | None = None,
    **jobs: Any,
) -> AsyncIterator[Api]:
    """`ingress` are settings of the HTTP side alone, `links` who signs for it, `jobs` the settings of the section."""
    engine, states = FakeEngine(), {"draft": LoadState(Phase.READY, None, 1.0)}
    engines = {"draft": engine, "flux-base": engine, "headshots": engine}
    async with open_workbench(root, engines, start=start, tracing=tracing, **jobs) as bench:

        async def assess() -> Readiness:
            return judge("draft", states)

        settings, clock = bench.settings.model_copy(update=dict(ingress or {})), SystemClock()
        controls = ControlsWatch(bench.stores.controls, SystemClock(), bench.sink)
        await controls.refresh()
        services = Services(
            settings=settings,
            jobs=bench.service,
            submitter=Submitter(bench.stores.jobs, bench.stores.photos, settings, clock),
            headshots=bench.headshots,
            photos=bench.stores.photos,
            links=links or bench.stores.links,
            dead_letters=bench.stores.dead_letters,
            readiness=assess,
            nudge=bench.nudge,
            sink=bench.sink,
            clock=clock,
            trust=trust or LocalTrust(),
            controls=controls,
            tracing=tracing or Tracing(),
        )
        transport = httpx.ASGITransport(create_app(services), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30) as http:
            yield Api(http, bench, engine, states, controls)


def expect_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert (body["type"], body["status"]) == (f"urn:pawfect:problem:{code}", status)
    assert body["title"]
    assert body["detail"].endswith(".")
    return body
