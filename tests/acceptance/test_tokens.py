"""The production environment with signed pushes, through Serve's own proxy: who has Google's word is served, and
nobody else. "Google" is a key server of ours on this machine."""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from pawfect.resources import provision
from pawfect.service_process import ServiceProcess, find_free_port
from pawfect.sessions import GoogleBackend
from serve_app.google_clients import make_clients
from serve_app.jobs.model import Session
from serve_app.settings import Settings
from tests.photos import make_mask, make_photo
from tests.tokens import BACKEND, PUSHER, serve_keys, sign_rs256

pytestmark = pytest.mark.serve

PROJECT = "tokens"


@pytest.fixture(scope="module")
def guarded(emulators: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    root: Path = tmp_path_factory.mktemp("guarded")
    settings = Settings(env="gcp", project_id=PROJECT)

    async def prepare() -> None:
        clients = make_clients(settings)
        await asyncio.to_thread(provision, clients, settings.google, "http://127.0.0.1:1/unused")
        await clients.close()

    asyncio.run(prepare())
    with serve_keys() as keys:
        environment = {
            **emulators,
            "ENV": "gcp",
            "PROJECT_ID": PROJECT,
            "PAWFECT_GOOGLE__CERTIFICATES_URL": keys.url,
            "PAWFECT_GOOGLE__PUSH_AUDIENCE": PUSHER.audience,
            "PAWFECT_GOOGLE__PUSH_ACCOUNT": PUSHER.email,
            "PAWFECT_GOOGLE__CALLER_AUDIENCE": BACKEND.audience,
            "PAWFECT_GOOGLE__ALLOWED_CALLERS": json.dumps([BACKEND.email]),
        }
        with ServiceProcess(root / "data", root / "log", port=find_free_port(), environment=environment) as process:
            asyncio.run(process.wait_ready())
            yield process


@pytest.fixture
async def app(guarded: ServiceProcess) -> AsyncIterator[GoogleBackend]:
    backend = GoogleBackend(Settings(env="gcp", project_id=PROJECT))
    yield backend
    await backend.close()


@pytest.fixture
async def http(guarded: ServiceProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=guarded.url, trust_env=False, timeout=60) as client:
        yield client


def now() -> dict[str, int]:
    moment = int(time.time())
    return {"iat": moment - 5, "exp": moment + 3000}


def bear(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def wrap(session: Session) -> dict[str, Any]:
    data = json.dumps({"userId": session.user_id, "sessionId": session.session_id}).encode()
    return {"message": {"messageId": uuid.uuid4().hex, "data": base64.b64encode(data).decode()}}


async def test_a_signed_push_and_an_allowed_caller_are_served(app: GoogleBackend, http: httpx.AsyncClient) -> None:
    session = Session("user", f"s-{uuid.uuid4().hex[:8]}")
    await app.create(session, make_photo(), make_mask())
    response = await http.post("/inpaint", json=wrap(session), headers=bear(PUSHER.token(**now())))
    assert response.status_code == 204
    path = f"/v1/users/user/sessions/{session.session_id}/edit"
    view = await http.get(path, headers=bear(BACKEND.token(**now())))
    assert (view.status_code, view.json()["processingStatus"]) == (200, "completed")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        (bear("a.b.c"), 401),
        (bear(PUSHER.token()), 401),
        (bear(PUSHER.token(sign_rs256("attacker"), **now())), 401),
        (bear(BACKEND.token(**now())), 401),
        (bear(PUSHER.token(email="other@project.iam.gserviceaccount.com", **now())), 403),
    ],
    ids=["none", "garbage", "of another year", "another key", "another audience", "another account"],
)
async def test_anybody_else_is_refused_and_nothing_is_done(
    app: GoogleBackend, http: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    session = Session("user", f"s-{uuid.uuid4().hex[:8]}")
    await app.create(session, make_photo(), make_mask())
    before = await app.read(session)
    response = await http.post("/inpaint", json=wrap(session), headers=headers)
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    assert await app.read(session) == before


async def test_a_push_token_opens_no_session_route(app: GoogleBackend, http: httpx.AsyncClient) -> None:
    session = Session("user", f"s-{uuid.uuid4().hex[:8]}")
    await app.create(session, make_photo(), make_mask())
    path = f"/v1/users/user/sessions/{session.session_id}/edit"
    for headers in ({}, bear(PUSHER.token(**now()))):
        for method in ("GET", "POST", "DELETE"):
            assert (await http.request(method, path, headers=headers)).status_code == 401
    assert (await http.get("/healthz")).status_code == 200
