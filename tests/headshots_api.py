"""What the tests of `/headshot` share: who calls, what the engine says, and how things are sent."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import httpx
from starlette.requests import HTTPConnection

from ingress.allowance import Allowance
from ingress.auth import VerifiedCaller, VerifiedSender
from serve_app.engines.protocol import Done, Event, Failed, HeadshotResult, Step
from serve_app.errors import Unauthenticated
from serve_app.jobs.model import Job
from serve_app.settings_headshots import HeadshotSettings
from tests.api import Api
from tests.photos import make_photo

QUALITY = {"pass": True, "metrics": {"blur_var": 120.5, "h": 120, "w": 160}, "reasons": []}
POOR = {"pass": False, "metrics": {"blur_var": 3.5, "h": 120, "w": 160}, "reasons": ["image_blurry"]}
PREVIEW, PRINT = b"\x89PNG preview", b"\x89PNG print"
REJECTED = Failed("headshot_rejected", "The photo is blurred; send a sharper one.", False, POOR)
ANN, BOB = ({"caller": name, "Authorization": "Bearer x"} for name in ("ann", "bob"))
OPEN_DOOR = {"env": "gcp", "headshots": HeadshotSettings(anonymous=True)}


class Callers:
    """The header `caller` says who calls; without it, or with the name of nobody, nobody does."""

    def __init__(self, users: tuple[str, ...] = ("*",)) -> None:
        self._users = users

    async def verify_sender(self, connection: HTTPConnection) -> VerifiedSender:
        return VerifiedSender("push")

    async def verify_caller(self, connection: HTTPConnection) -> VerifiedCaller:
        if name := connection.headers.get("caller"):
            return VerifiedCaller(name, Allowance(self._users))
        raise Unauthenticated("nobody")


def give(quality: Mapping[str, Any] = QUALITY) -> list[Event]:
    result = HeadshotResult(preview=PREVIEW, print=PRINT, quality=quality, engine_seconds=1.5, gpu_seconds=0.0)
    return [Step(1, 5), Done(result)]


def script(api: Api, *turns: Any) -> None:
    api.engine.script = list(turns)


async def send(
    api: Api,
    path: str = "/headshot",
    photo: bytes | None = None,
    name: str = "Rex & me.jpeg",
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    content = make_photo() if photo is None else photo
    return await api.http.post(path, files={"file": (name, content)}, headers=headers)


async def push(api: Api, data: Any, message_id: str = "m1") -> httpx.Response:
    text = data if isinstance(data, str) else base64.b64encode(json.dumps(data).encode()).decode()
    return await api.http.post("/headshot/push", json={"message": {"messageId": message_id, "data": text}})


async def find(api: Api, job_id: str) -> Job:
    job = await api.bench.stores.jobs.get(job_id)
    assert job is not None
    return job


async def fetch(api: Api, url: str) -> bytes:
    response = await api.http.get(url.replace("http://127.0.0.1:8000", ""))
    assert response.status_code == 200, response.text
    return response.content


async def read_document(api: Api, job_id: str) -> dict[str, Any]:
    document: dict[str, Any] = await api.bench.stores.jobs.get_headshot(job_id)  # type: ignore[attr-defined]
    return document


async def open_upload(api: Api, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    wish = {"content_type": "image/jpeg", "file_name": "../../Rex.jpg"}
    response = await api.http.post("/headshot/uploads", json=wish, headers=headers)
    assert response.status_code == 201, response.text
    ticket: dict[str, Any] = response.json()
    return ticket


async def upload(api: Api, ticket: dict[str, Any], photo: bytes) -> httpx.Response:
    url = ticket["upload_url"].replace("http://127.0.0.1:8000", "")
    return await api.http.request(ticket["method"], url, content=photo, headers=ticket["headers"])


async def put_original(api: Api, job_id: str = "perkie-1", photo: bytes | None = None, expected: str = "") -> str:
    path = f"headshots/originals/{job_id}/original/rex.jpg"
    await api.bench.stores.photos.write(path, photo or make_photo(), content_type="image/jpeg", expected=expected)
    return path


MESSAGE = {"job_id": "perkie-1", "orig_bucket": "local", "orig_key": "perkie-1/original/rex.jpg"}
