"""A day's kinds of work, mixed: pushed sessions, jobs over HTTP, headshots, cancellations, and what cannot be done."""

from __future__ import annotations

import asyncio
import io
import random
from collections import Counter
from http import HTTPStatus

import httpx
import numpy as np
from PIL import Image

from pawfect.client import Client
from pawfect.demo import SAMPLE
from pawfect.sessions import Backend
from serve_app.jobs.model import Session

POLL_S = 0.5
SHARES = {"push": 50, "job": 25, "headshot": 10, "cancelled": 8, "failing": 7}
"""Of a hundred pieces of work."""
FINAL = ("completed", "failed", "cancelled")
HEADSHOT_PX = 900
"""Long edge of the headshots' photo: a second of work instead of ten."""


def make_pictures() -> tuple[bytes, bytes, bytes]:
    """Photo, mask, and an empty mask."""
    photo = Image.open(SAMPLE / "original.jpg").convert("RGB").resize((640, 480))
    mask = np.zeros((480, 640), np.uint8)
    mask[200:230, 100:260] = 255
    return _encode(photo, "JPEG"), _encode(Image.fromarray(mask), "PNG"), _encode(Image.fromarray(mask * 0), "PNG")


def make_portrait() -> bytes:
    portrait = Image.open(SAMPLE / "pet.jpg").convert("RGB")
    portrait.thumbnail((HEADSHOT_PX, HEADSHOT_PX))
    return _encode(portrait, "JPEG")


def _encode(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


class Traffic:
    """`ends` counts how each piece of work ended, by kind; `errors` what should not have happened."""

    def __init__(self, client: Client, backend: Backend, seed: int = 7) -> None:
        self._client = client
        self._backend = backend
        self._random = random.Random(seed)
        self._photo, self._mask, self._nothing = make_pictures()
        self._portrait = make_portrait()
        self._number = 0
        self.ends: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.under_way = 0

    async def do_one(self) -> None:
        """One piece of work from its start to its end. Raises nothing."""
        self._number += 1
        kind = self._random.choices(list(SHARES), list(SHARES.values()))[0]
        self.under_way += 1
        try:
            end = await getattr(self, f"_{kind}")(f"soak-{self._number:06}")
            self.ends[f"{kind} {end}"] += 1
        except (httpx.HTTPError, KeyError) as error:
            self.errors[f"{kind} {type(error).__name__}"] += 1
        finally:
            self.under_way -= 1

    async def _push(self, name: str, *, is_empty: bool = False) -> str:
        session = Session("soak", name)
        await self._backend.create(session, self._photo, self._nothing if is_empty else self._mask)
        while (status := await self._client.push(name, {"userId": "soak", "sessionId": name})) != HTTPStatus.NO_CONTENT:
            self.errors[f"push {status}"] += status != HTTPStatus.SERVICE_UNAVAILABLE
            await asyncio.sleep(1)
        return str((await self._backend.read(session) or {})["processingStatus"])

    async def _failing(self, name: str) -> str:
        return await self._push(name, is_empty=True)

    async def _submit(self, name: str) -> str:
        answer = await self._client.submit_job(
            "ImageInpaint", key=name, as_form=True, init_image=self._photo, mask_image=self._mask
        )
        return str(answer.raise_for_status().json()["job_id"])

    async def _job(self, name: str) -> str:
        end = await self._await_end(job_id := await self._submit(name))
        if end == "completed":
            (await self._client.fetch_result(job_id)).raise_for_status()
        return end

    async def _cancelled(self, name: str) -> str:
        job_id = await self._submit(name)
        await asyncio.sleep(self._random.uniform(0, 0.5))
        await self._client.cancel_job(job_id)
        return await self._await_end(job_id)

    async def _headshot(self, name: str) -> str:
        answer = await self._client.make_headshot(self._portrait, key=name)
        return str(answer.status_code)

    async def _await_end(self, job_id: str) -> str:
        while True:
            answer = await self._client.get_job(job_id)
            if answer.is_success and (status := str(answer.json()["status"])) in FINAL:
                return status
            await asyncio.sleep(POLL_S)
