"""Whether a service is the wanted version and edits photos: asked over HTTP, as its callers do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx

from delivery.check import Check, Say
from delivery.errors import VerificationFailed
from delivery.proof import prove
from pawfect.client import Client


@dataclass(frozen=True, slots=True)
class _Answer:
    is_well: bool
    told: str
    is_loading: bool = False


async def verify(check: Check, say: Say) -> str:
    """'' if all is well; or why no edit was asked for, where that is as an operator wants it. Raises
    VerificationFailed, and Unverified when no engine has come for the edit."""
    try:
        async with httpx.AsyncClient(base_url=check.url, timeout=10.0, trust_env=False) as http:
            await _settle(check, lambda: _ask_version(http, check.version), say)
            await _settle(check, lambda: _ask_ready(http), say)
        if not check.is_edit:
            return ""
        async with Client(check.url, check.token) as client:
            return await prove(check, client, say)
    except httpx.HTTPError as error:
        raise VerificationFailed(f"{check.url} broke off: {type(error).__name__} {error}".rstrip()) from None


async def _settle(check: Check, ask: Callable[[], Awaitable[_Answer]], say: Say) -> None:
    """Ask until it is well, or until `settle_s` are over."""
    started = time.monotonic()
    while not (answer := await ask()).is_well:
        if time.monotonic() - started >= check.settle_s:
            if check.is_edit and answer.is_loading:
                say(f"  {answer.told} The edit has its own time to wait for it")
                return
            raise VerificationFailed(f"{check.url} after {check.settle_s:.0f} s: {answer.told}")
        await asyncio.sleep(check.poll_s)
    say(f"  {answer.told}")


async def _ask_version(http: httpx.AsyncClient, wanted: str | None) -> _Answer:
    status, body = await _get(http, "/health")
    if status != httpx.codes.OK:
        return _Answer(False, f"/health answers {status}.")
    version = body.get("version")
    if wanted is not None and version != wanted:
        return _Answer(False, f"/health tells of version {version}, not of {wanted}.")
    return _Answer(True, f"/health: alive, version {version}")


async def _ask_ready(http: httpx.AsyncClient) -> _Answer:
    """An engine that is loading may be one without a machine: there may be no L4 to be had for long."""
    status, body = await _get(http, "/ready")
    told = f"/ready: {body.get('reason') or body.get('state') or status}"
    return _Answer(bool(body.get("ready")), told, is_loading=body.get("state") == "loading")


async def _get(http: httpx.AsyncClient, path: str) -> tuple[int | str, dict[str, Any]]:
    """Status, or what is there instead, and the body if it is an object."""
    try:
        answer = await http.get(path)
        body = answer.json()
    except httpx.TransportError as error:
        return f"nothing ({type(error).__name__})", {}
    except ValueError:
        body = None
    return answer.status_code, body if isinstance(body, dict) else {}
