"""Whether a service is the wanted version and edits photos: asked over HTTP, as its callers do."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx

from delivery.canary import judge, load_canary
from delivery.errors import VerificationFailed
from pawfect.client import Client

Say = Callable[[str], None]
ENDED = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Check:
    """What is asked of the service at `url`. `token` is a bearer's. `settle_s`: a load balancer hears of new pods with
    a delay. `edit_s` has room for an L4 that must come first."""

    url: str
    version: str | None = None
    is_edit: bool = False
    quality: str = "auto"
    token: str | None = None
    settle_s: float = 300.0
    edit_s: float = 1200.0
    poll_s: float = 1.0


async def verify(check: Check, say: Say) -> None:
    """Raises VerificationFailed."""
    try:
        await _settle(check, lambda: _ask_version(check), say)
        async with Client(check.url, check.token) as client:
            await _settle(check, lambda: _ask_ready(client), say)
            if check.is_edit:
                await _edit(check, client, say)
    except httpx.HTTPError as error:
        raise VerificationFailed(f"{check.url} broke off: {type(error).__name__} {error}".rstrip()) from None


async def _settle(check: Check, ask: Callable[[], Awaitable[tuple[bool, str]]], say: Say) -> None:
    """Ask until it is well, or until `settle_s` are over."""
    started = time.monotonic()
    while True:
        is_well, told = await ask()
        if is_well:
            say(f"  {told}")
            return
        if time.monotonic() - started >= check.settle_s:
            raise VerificationFailed(f"{check.url} after {check.settle_s:.0f} s: {told}.")
        await asyncio.sleep(check.poll_s)


async def _ask_version(check: Check) -> tuple[bool, str]:
    try:
        async with httpx.AsyncClient(base_url=check.url, timeout=10.0, trust_env=False) as http:
            answer = await http.get("/health")
            version = answer.json().get("version") if answer.status_code == httpx.codes.OK else None
    except (httpx.TransportError, ValueError) as error:
        return False, f"/health does not answer ({type(error).__name__})"
    if answer.status_code != httpx.codes.OK:
        return False, f"/health answers {answer.status_code}"
    if check.version is not None and version != check.version:
        return False, f"/health tells of version {version}, not of {check.version}"
    return True, f"/health: alive, version {version}"


async def _ask_ready(client: Client) -> tuple[bool, str]:
    is_ready, reason = await client.ready()
    return is_ready, f"/ready: {reason}"


async def _edit(check: Check, client: Client, say: Say) -> None:
    canary = load_canary()
    started = time.monotonic()
    answer = await client.submit_job(
        "ImageInpaint", key=f"canary-{uuid.uuid4().hex}", init_image=canary.photo, mask_image=canary.mask,
        priority="urgent", quality=check.quality, output_format="png", deadline_s=check.edit_s,
    )  # fmt: skip
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise VerificationFailed(
            f"The service answers {answer.status_code} to this sender: {_read(answer, 'detail')} The account must be "
            "in PAWFECT_GOOGLE__ALLOWED_CALLERS and the token's audience be PAWFECT_GOOGLE__CALLER_AUDIENCE."
        )
    if answer.status_code != httpx.codes.ACCEPTED:
        raise VerificationFailed(f"The canary was not accepted, {answer.status_code}: {_read(answer, 'detail')}")
    job = answer.json()
    while job["status"] not in ENDED:
        if time.monotonic() - started >= check.edit_s:
            raise VerificationFailed(f"The canary is {job['status']} after {check.edit_s:.0f} s.")
        await asyncio.sleep(check.poll_s)
        job = (await client.get_job(job["job_id"])).raise_for_status().json()
    if job["status"] != "completed":
        raise VerificationFailed(
            f"The canary is {job['status']}: {(job.get('error') or {}).get('message', 'no reason given')}"
        )
    result = (await client.fetch_result(job["job_id"])).raise_for_status()
    say(f"  an edit in {time.monotonic() - started:.1f} s: {judge(canary, result.content)}")


def _read(answer: httpx.Response, field: str) -> Any:
    """A field of a problem's JSON, or what there is instead."""
    try:
        return answer.json().get(field) or answer.text[:200]
    except ValueError:
        return answer.text[:200]
