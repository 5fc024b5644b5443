"""What came of published sessions, as seen in their documents and photos from outside."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pawfect.sessions import AppBackend
from serve_app.errors import StoreUnavailable
from serve_app.jobs.model import Session

POLL_S = 0.2


@dataclass
class Effect:
    """The first sight of a completed session."""

    job_id: str
    generation: str


class Effects:
    """Looks at every session that is `watched` until it is completed."""

    def __init__(self, backend: AppBackend) -> None:
        self.watched: list[Session] = []
        self.seen: dict[Session, Effect] = {}
        self._backend = backend

    async def watch(self) -> None:
        while True:
            for session in [each for each in self.watched if each not in self.seen]:
                with contextlib.suppress(StoreUnavailable):
                    document = await self._backend.read(session) or {}
                    if document.get("processingStatus") == "completed":
                        generation = await self._backend.generation(session.edited_path)
                        self.seen[session] = Effect(document["jobId"], generation)
            await asyncio.sleep(POLL_S)

    async def judge(self, sessions: Iterable[Session]) -> dict[str, int]:
        """`double_effects`: sessions that came to show another job, or whose result was written again, after they had
        been seen completed."""
        completed = doubled = lost = stuck = 0
        for session in sessions:
            document = await insist(partial(self._backend.read, session)) or {}
            generation = await insist(partial(self._backend.generation, session.edited_path))
            status, effect = document.get("processingStatus"), self.seen.get(session)
            completed += status == "completed" and bool(generation)
            stuck += status == "processing"
            lost += status not in ("completed", "processing")
            doubled += effect is not None and effect != Effect(document["jobId"], generation)
        return {"completed": completed, "double_effects": doubled, "lost": lost, "stuck": stuck}


async def insist(call: Callable[[], Any]) -> Any:
    """Until the stores answer."""
    while True:
        try:
            return await call()
        except StoreUnavailable:
            await asyncio.sleep(0.5)
