"""The canary at the service: jobs like any other, until the wanted version has done one."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import httpx

from delivery.canary import judge, load_canary, read_version
from delivery.check import Check, Say
from delivery.errors import Unverified, VerificationFailed
from pawfect.client import Client

ENDED = frozenset({"completed", "failed", "cancelled"})
BUSY = frozenset({429, 502, 503, 504})
"""What passes by itself: limits, a load balancer between two clusters, a store that does not answer."""
PAUSED = "urn:pawfect:problem:paused"

Job = dict[str, Any]
Call = Callable[[], Awaitable[httpx.Response]]


class _Paused(Exception):
    """The service's own words are the argument."""


async def prove(check: Check, client: Client, say: Say) -> str:
    """'' once the sample was edited, by the wanted version if one is named; or why it was not, where that is as an
    operator wants it. Raises VerificationFailed, and Unverified when no engine has come."""
    proof = _Proof(check, client, say)
    try:
        await proof.run()
    except _Paused as paused:
        return f"not edited: consumption is paused by an operator ({paused})"
    return ""


class _Proof:
    def __init__(self, check: Check, client: Client, say: Say) -> None:
        self._check, self._client, self._say = check, client, say
        self._canary = load_canary()
        self._started = time.monotonic()
        self._only = ""
        """Says that another version has answered, and none but it."""

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._started

    async def run(self) -> None:
        """Ask for one job after the other: what an older version's Editors have done, or failed, proves nothing."""
        check = self._check
        while True:
            began = self._seconds
            job = await self._follow(await self._submit())
            if job["status"] == "completed":
                trouble = self._only = await self._look(job, began)
                patience_s = check.edit_s
            else:
                why = (job.get("error") or {}).get("message", "no reason given")
                trouble, patience_s = f"the canary is {job['status']}: {why}", check.old_s if check.version else 0.0
            if not trouble:
                return
            if self._seconds + check.again_s >= patience_s:
                raise VerificationFailed(f"After {self._seconds:.0f} s {trouble}")
            self._say(f"  {self._seconds:5.0f} s  {trouble} It is asked again")
            await asyncio.sleep(check.again_s)

    async def _look(self, job: Job, began: float) -> str:
        """'' if it is the wanted version's edit. What another version made of the canary is not looked at."""
        answer = (await self._ask(partial(self._client.fetch_result, job["job_id"]))).raise_for_status()
        version, wanted = read_version(answer.content), self._check.version
        # None: of a time when pictures did not tell; going back to it must stay possible.
        if wanted is not None and version not in (None, wanted):
            return f"only version {version} has edited the canary, not {wanted}."
        seen = judge(self._canary, answer.content)
        self._say(f"  an edit in {self._seconds - began:.1f} s by {_name(version)}: {seen}")
        return ""

    async def _submit(self) -> Job:
        key, seed = f"canary-{uuid.uuid4().hex}", secrets.randbelow(2**31)
        check = self._check
        answer = await self._ask(
            lambda: self._client.submit_job(
                "ImageInpaint", key=key, seed=seed, init_image=self._canary.photo, mask_image=self._canary.mask,
                priority="urgent", quality=check.quality, output_format="png",
                # Given up here before it is failed there: then its state still says what it waited for.
                deadline_s=check.edit_s + 60,
            )
        )  # fmt: skip
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise VerificationFailed(
                f"The service answers {answer.status_code} to this sender: {_read(answer, 'detail')} The account must "
                "be in PAWFECT_GOOGLE__ALLOWED_CALLERS and the token's audience be PAWFECT_GOOGLE__CALLER_AUDIENCE."
            )
        if answer.status_code not in (httpx.codes.OK, httpx.codes.ACCEPTED):
            raise VerificationFailed(f"The canary was not accepted, {answer.status_code}: {_read(answer, 'detail')}")
        job: Job = answer.json()
        return job

    async def _follow(self, job: Job) -> Job:
        """To its end. Raises VerificationFailed or Unverified when that does not come in time."""
        met_engine = False
        while job["status"] not in ENDED:
            met_engine = met_engine or _is_at_engine(job)
            if self._seconds >= self._check.edit_s:
                with contextlib.suppress(httpx.HTTPError):
                    await self._client.cancel_job(job["job_id"])  # it would have an L4 started for nobody
                self._give_up(job, met_engine)
            await asyncio.sleep(self._check.poll_s)
            answer = await self._ask(partial(self._client.get_job, job["job_id"]))
            job = answer.raise_for_status().json()
        return job

    def _give_up(self, job: Job, met_engine: bool) -> None:
        told = f"the canary is {job['status']} after {self._seconds:.0f} s"
        if self._only and not met_engine:  # nobody claims it since the older version's Editors are gone
            raise VerificationFailed(f"{told}, and {self._only}")
        if job["status"] != "queued" and not _is_waiting(job):
            raise VerificationFailed(f"{told}, at stage {(job.get('progress') or {}).get('stage')}.")
        raise Unverified(
            f"not edited: no engine yet; {told}. Verify again when there is one; --quality draft proves the rest "
            "without a GPU."
        )

    async def _ask(self, call: Call) -> httpx.Response:
        """An answer that means something. Raises _Paused, and VerificationFailed when there is none in time."""
        paused_since: float | None = None
        while True:
            try:
                answer = await call()
            except httpx.TransportError as error:
                told, is_paused = f"breaks off: {type(error).__name__}", False
            else:
                if answer.status_code not in BUSY:
                    return answer
                told = f"answers {answer.status_code}: {_read(answer, 'detail')}"
                is_paused = _read(answer, "type") == PAUSED
            paused_since = (paused_since or self._seconds) if is_paused else None
            if paused_since is not None and self._seconds - paused_since >= self._check.paused_s:
                raise _Paused(_read(answer, "detail"))
            if self._seconds >= self._check.edit_s:
                raise VerificationFailed(f"{self._check.url} after {self._seconds:.0f} s {told}")
            await asyncio.sleep(self._check.poll_s)


def _is_at_engine(job: Job) -> bool:
    return (job.get("progress") or {}).get("stage") == "engine"


def _is_waiting(job: Job) -> bool:
    """For an engine's first step."""
    progress = job.get("progress") or {}
    return _is_at_engine(job) and not progress.get("step") and not progress.get("decoding")


def _name(version: str | None) -> str:
    return f"version {version}" if version else "a version that pictures do not tell"


def _read(answer: httpx.Response, field: str) -> Any:
    """A field of a problem's JSON, or what there is instead."""
    try:
        return answer.json().get(field) or answer.text[:200]
    except ValueError:
        return answer.text[:200]
