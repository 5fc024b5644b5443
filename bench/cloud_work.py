"""The pieces of work that `cloud_calls` has billed, and what surrounds them, as the app and a caller would do them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from bench.cloud_proxies import Ledger
from ingress.rate_limits import RECENT_JOBS
from pawfect.client import Client
from pawfect.sessions import GoogleBackend
from serve_app.google_clients import GoogleClients
from serve_app.jobs.model import Session
from serve_app.settings_sections import CallerSettings

PATIENCE_S = 180.0
HISTORY = CallerSettings().concurrent_jobs + RECENT_JOBS
"""A caller's jobs that are read before one more is taken."""


@dataclass(frozen=True)
class Bench:
    ledger: Ledger
    backend: GoogleBackend
    clients: GoogleClients
    client: Client
    photo: bytes
    mask: bytes
    pet: bytes


async def edit(bench: Bench, steps: int) -> float:
    """Publish a session and wait for its end and its closing; seconds from the claim to the end."""
    session = Session("bench", uuid.uuid4().hex)
    await bench.backend.create(session, bench.photo, bench.mask)
    await bench.backend.publish_session(session, quality="low", steps=steps)

    async def find() -> str | None:
        return (await bench.backend.read(session) or {}).get("jobId")

    return await _wait_job(bench, await _wait(find))


async def run_http_job(bench: Bench, steps: int) -> float:
    wish: dict[str, Any] = {"init_image": bench.photo, "mask_image": bench.mask, "quality": "low", "steps": steps}
    response = await bench.client.submit_job("ImageInpaint", as_form=True, **wish)
    if response.status_code != 202:
        raise RuntimeError(response.text)
    job_id: str = response.json()["job_id"]
    async for _ in bench.client.follow(job_id):
        pass
    seconds = await _wait_job(bench, job_id)
    (await bench.client.fetch_result(job_id)).raise_for_status()
    return seconds


async def make_headshot(bench: Bench) -> float:
    job_id = f"bench-{uuid.uuid4().hex}"
    await bench.backend.publish_headshot(job_id, bench.pet)
    return await _wait_job(bench, job_id)


async def _wait_job(bench: Bench, job_id: str) -> float:
    reference = bench.clients.firestore.collection("jobs").document(job_id)

    async def find() -> dict[str, Any] | None:
        document = (await reference.get()).to_dict() or {}
        return document if document.get("closed") else None

    job = await _wait(find)
    if job["status"] != "completed":
        raise RuntimeError(f"{job_id} is {job['status']}: {job['error']}")
    return float(job["finished_at"] - job["claimed_at"])


async def _wait(find: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        while not (found := await find()):
            await asyncio.sleep(0.2)
    return found


async def give_history(bench: Bench, job_id: str) -> None:
    """Copies of an ended job, older than it."""
    jobs = bench.clients.firestore.collection("jobs")
    document = (await jobs.document(job_id).get()).to_dict() or {}
    for number in range(1, HISTORY + 1):
        copy = {**document, "id": f"{job_id}-{number}", "created_at": document["created_at"] - number}
        await jobs.document(copy["id"]).set(copy)
