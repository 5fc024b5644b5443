"""The whole HTTP application behind a door: who is let in, what was done, and what was not even read."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from starlette.requests import HTTPConnection

from ingress.api import create_app
from ingress.auth import TOLD, GoogleTokens, Trust
from ingress.keys import KeySet
from ingress.services import Services
from serve_app.clock import SystemClock
from serve_app.engines.readiness import Readiness
from serve_app.errors import Forbidden, Unauthenticated
from serve_app.jobs.controls import ControlsWatch
from serve_app.jobs.submission import Submitter
from tests.engines import FakeEngine
from tests.tokens import HandClock, KeyServer
from tests.workbench import SESSION, Workbench, open_workbench

EDIT = "/v1/users/user/sessions/session/edit"
Headers = list[tuple[str, str]]


class Recorder:
    """Passes everything on, and notes what was asked for."""

    def __init__(self, inner: Any, calls: list[str]) -> None:
        self._inner = inner
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        self._calls.append(name)
        return getattr(self._inner, name)


@dataclass
class Guarded:
    http: httpx.AsyncClient
    bench: Workbench
    calls: list[str] = field(default_factory=list)
    was_read: bool = False

    async def send(self, method: str, path: str, headers: Headers, body: bytes = b"") -> httpx.Response:
        async def stream() -> AsyncIterator[bytes]:
            self.was_read = True
            yield body

        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        typed = [(b"Content-Type", b"application/json"), *raw]
        return await self.http.request(method, path, headers=typed, content=stream())

    async def push(self, headers: Headers) -> httpx.Response:
        data = base64.b64encode(json.dumps({"userId": "user", "sessionId": "session"}).encode()).decode()
        return await self.send(
            "POST", "/inpaint", headers, json.dumps({"message": {"messageId": "1", "data": data}}).encode()
        )

    async def edit(self, headers: Headers) -> httpx.Response:
        return await self.send("POST", EDIT, headers, b'{"seed": 7}')

    async def expect_nothing_done(self, before: Any) -> None:
        assert self.calls == []
        assert not self.was_read
        assert (await self.bench.stores.jobs.backlog(0.0)).queued == 0
        assert await self.bench.stores.dead_letters.latest(10) == []
        assert await self.bench.backend.read(SESSION) == before


@asynccontextmanager
async def open_guarded(root: Path, trust: Trust, *, start: bool = False) -> AsyncIterator[Guarded]:
    async with open_workbench(root, {"draft": FakeEngine()}, start=start, push_wait_s=10 if start else 0.1) as bench:
        await bench.put_session()
        calls: list[str] = []

        async def assess() -> Readiness:
            return Readiness(True, "ready", None, {})

        def nudge() -> None:
            calls.append("nudge")
            bench.runner.nudge()

        controls = ControlsWatch(bench.stores.controls, SystemClock(), bench.sink)
        await controls.refresh()
        services = Services(
            settings=bench.settings,
            jobs=Recorder(bench.service, calls),
            submitter=Recorder(Submitter(bench.stores.jobs, bench.stores.photos, bench.settings, SystemClock()), calls),
            headshots=Recorder(bench.headshots, calls),
            photos=bench.stores.photos,
            links=bench.stores.links,
            dead_letters=Recorder(bench.stores.dead_letters, calls),
            readiness=assess,
            nudge=nudge,
            sink=bench.sink,
            clock=SystemClock(),
            trust=trust,
            controls=controls,
        )
        transport = httpx.ASGITransport(create_app(services), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service", timeout=30) as http:
            yield Guarded(http, bench, calls)


def trust_google(server: KeyServer, clock: HandClock | None = None, **changes: Any) -> GoogleTokens:
    google = server.settings(**changes)
    clock = clock or HandClock()
    return GoogleTokens(google, KeySet(google.certificates_url, 10, clock), clock)


def bear(token: str) -> Headers:
    return [("Authorization", f"Bearer {token}")]


def expect_refusal(response: httpx.Response, status: int) -> None:
    kind: type[Unauthenticated] | type[Forbidden] = Unauthenticated if status == 401 else Forbidden
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    body = response.json()
    assert (body["type"], body["detail"]) == (f"urn:pawfect:problem:{kind.code}", TOLD[kind])


def connect(headers: Headers, client: tuple[str, int] | None = ("127.0.0.1", 1)) -> HTTPConnection:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    return HTTPConnection({"type": "http", "path": "/", "headers": raw, "client": client})
