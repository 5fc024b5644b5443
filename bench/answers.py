"""What the service answered to each request of a load, and what counts as failed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass
from http import HTTPStatus

import httpx

PUSH = "push"
OK, AGAIN = "ok", "again"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request came to: OK, AGAIN (503 to a push, or with Retry-After), another status, or how it broke."""

    what: str
    name: str
    sent_at: float
    answered_at: float


class Answers:
    """Every answer there was."""

    def __init__(self) -> None:
        self.log: list[Answer] = []

    async def take(self, what: str, request: Awaitable[httpx.Response | int]) -> httpx.Response | int | None:
        """Send a request and note what it came to; None for a broken connection."""
        sent_at = time.time()
        answer: httpx.Response | int | None = None
        try:
            answer = await request
            name = name_answer(what, answer)
        except httpx.TransportError as error:
            name = type(error).__name__
        self.log.append(Answer(what, name, sent_at, time.time()))
        return answer

    @property
    def failed(self) -> int:
        return sum(each.name not in (OK, AGAIN) for each in self.log)

    def count_again(self, what: str) -> int:
        return sum(each.what == what and each.name == AGAIN for each in self.log)

    def describe_failures(self) -> str:
        counts = Counter(f"{each.what} {each.name}" for each in self.log if each.name not in (OK, AGAIN))
        return ", ".join(f"{number} × {name}" for name, number in counts.items())


def name_answer(what: str, answer: httpx.Response | int) -> str:
    status = answer if isinstance(answer, int) else answer.status_code
    if status < HTTPStatus.BAD_REQUEST:
        return OK
    may_come_again = what == PUSH or (isinstance(answer, httpx.Response) and "retry-after" in answer.headers)
    return AGAIN if status == HTTPStatus.SERVICE_UNAVAILABLE and may_come_again else str(status)
