"""Work offered to the service as time goes by, as its callers offer it: messages pushed until they are acknowledged, as
Pub/Sub does, and jobs over HTTP watched to their end. Every answer is counted; nothing is tried again unseen.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal

import httpx

from bench.answers import AGAIN, OK, PUSH, Answer, Answers, name_answer
from pawfect.client import Client
from pawfect.sessions import AppBackend
from serve_app.jobs.model import Session

POLL_S = 0.5
"""Between two looks of a caller at its job."""
BACKOFF_S = (1.0, 10.0)
"""Least and most a push subscription waits before it delivers again; doubles."""
FINAL = frozenset({"completed", "failed", "cancelled"})
COMPLETED = "completed"

Kind = Literal["push", "edit", "job"]


@dataclass
class Asked:
    """One piece of work. `name` is the session's or the job's id, `outcome` a final status, empty until it is known."""

    kind: Kind
    name: str
    asked_at: float
    ended_at: float | None = None
    outcome: str = ""
    job: Mapping[str, Any] = field(default_factory=dict)

    @property
    def session(self) -> Session:
        """Of a push or an edit."""
        return Session("load", self.name)

    @property
    def latency_s(self) -> float | None:
        return None if self.ended_at is None else self.ended_at - self.asked_at


@dataclass(frozen=True, slots=True)
class Phase:
    """`rate` pieces of work a second for so long, at regular times."""

    name: str
    seconds: float
    rate: float


class Load:
    """`backend` puts the sessions in place; `wish` are parameters of every job, `photo` and `mask` its pictures."""

    def __init__(
        self, client: Client, backend: AppBackend, photo: bytes, mask: bytes, wish: Mapping[str, Any], prefix: str = "s"
    ) -> None:
        self.asked: list[Asked] = []
        self.answers = Answers()
        self._client = client
        self._backend = backend
        self._photo, self._mask, self._wish, self._prefix = photo, mask, dict(wish), prefix
        self._tasks: list[asyncio.Task[None]] = []

    async def follow(self, phases: Sequence[Phase], offer: Callable[[], None] | None = None) -> None:
        offer = offer or self.offer_push
        start = time.monotonic()
        for phase in phases:
            for number in range(int(phase.seconds * phase.rate)):
                await _sleep_until(start + (number + 0.5) / phase.rate)
                offer()
            start += phase.seconds
            await _sleep_until(start)

    def offer_push(self, **wish: Any) -> None:
        self._spawn(self._push(self._note("push"), {**self._wish, **wish}))

    def offer_job(self, **wish: Any) -> None:
        self._spawn(self._run_job(self._note("job"), {**self._wish, **wish}))

    def offer_edit(self, **wish: Any) -> None:
        """A session's edit that its caller waits for."""
        self._spawn(self._edit(self._note("edit"), {**self._wish, **wish}))

    def offer_watched_job(self, **wish: Any) -> None:
        """A job whose events are listened to."""
        self._spawn(self._run_job(self._note("job"), {**self._wish, **wish}, is_watched=True))

    async def settle(self, patience_s: float) -> int:
        """Wait until everything has ended; how many have not when patience ends."""
        if self._tasks:
            done, left = await asyncio.wait(self._tasks, timeout=patience_s)
            for task in left:
                task.cancel()
            for task in done:
                task.result()  # a defect of the benchmark must not pass for work that was lost
        return sum(not asked.outcome for asked in self.asked)

    async def close(self) -> None:
        """Nobody calls any more, whatever has not ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _note(self, kind: Kind) -> Asked:
        asked = Asked(kind, f"{self._prefix}{len(self.asked):04}", time.time())
        self.asked.append(asked)
        return asked

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def _push(self, asked: Asked, wish: Mapping[str, Any]) -> None:
        session = asked.session
        await self._backend.create(session, self._photo, self._mask)
        asked.asked_at = time.time()
        data = {"userId": session.user_id, "sessionId": session.session_id, **wish}
        pause, most = BACKOFF_S
        while not await self._deliver(f"m-{asked.name}", data):
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))
            pause = min(most, pause * 2)
        asked.ended_at = time.time()
        asked.outcome = str((await self._backend.read(session) or {}).get("processingStatus", "missing"))

    async def _edit(self, asked: Asked, wish: Mapping[str, Any]) -> None:
        user, session = asked.session.user_id, asked.session.session_id
        await self._backend.create(asked.session, self._photo, self._mask)
        while asked.outcome not in FINAL:  # 202 says that it still runs
            answer = await self._insist("edit", lambda: self._client.edit(user, session, **wish))
            asked.outcome = str(answer.json()["processingStatus"]) if answer.status_code == HTTPStatus.OK else ""
        asked.ended_at = time.time()

    async def _deliver(self, message_id: str, data: dict[str, Any]) -> bool:
        return await self.answers.take(PUSH, self._client.push(message_id, data)) == HTTPStatus.NO_CONTENT

    async def _run_job(self, asked: Asked, wish: Mapping[str, Any], *, is_watched: bool = False) -> None:
        pictures = {"init_image": self._photo, "mask_image": self._mask}
        key = f"key-{asked.name}"
        submitted = await self._insist(
            "submit", lambda: self._client.submit_job("ImageInpaint", key=key, as_form=True, **pictures, **wish)
        )
        asked.name = submitted.json()["job_id"]
        if is_watched:
            await self._listen(asked.name)
        while asked.outcome not in FINAL:
            await asyncio.sleep(POLL_S)
            asked.job = (await self._insist("status", lambda: self._client.get_job(asked.name))).json()
            asked.outcome = asked.job["status"] if asked.job["status"] in FINAL else ""
        asked.ended_at = time.time()
        if asked.outcome == COMPLETED:
            await self._insist("result", lambda: self._client.fetch_result(asked.name))

    async def _listen(self, job_id: str) -> None:
        """To its end. A stream that the service ends before that is asked for again, as a browser does (AGAIN); one
        that breaks has failed."""
        last: int | None = None
        is_over = False
        while not is_over:
            sent_at, name = time.time(), AGAIN
            try:
                async for event in self._client.follow(job_id, last, reconnect=False):
                    last, is_over = event.id, event.is_final
                name = OK if is_over else AGAIN
            except httpx.TransportError as error:
                name = type(error).__name__
            except httpx.HTTPStatusError as error:
                name = name_answer("events", error.response)
            self.answers.log.append(Answer("events", name, sent_at, time.time()))
            if not is_over:
                await asyncio.sleep(BACKOFF_S[0])

    async def _insist(self, what: str, ask: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
        """Ask until it is answered well."""
        while True:
            answer = await self.answers.take(what, ask())
            if isinstance(answer, httpx.Response) and answer.is_success:
                return answer
            await asyncio.sleep(BACKOFF_S[0])


async def _sleep_until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))
