"""The few threads in which photos are decoded and encoded; their number bounds the full frames in memory."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from serve_app.clock import Clock

T = TypeVar("T")


class CodecThreads:
    def __init__(self, number: int, clock: Clock) -> None:
        self._places = asyncio.Semaphore(number)
        self._executor = ThreadPoolExecutor(number, thread_name_prefix="codec")
        self._clock = clock
        self._started: dict[asyncio.Future[Any], float] = {}

    async def run(self, limit_s: float, work: Callable[[], T]) -> T:
        """Waits for a place first, without a limit; raises TimeoutError when the work itself takes longer than that.

        A thread cannot be stopped: it keeps its place until the work returns. What is logged there carries the fields
        of the task that called.
        """
        await self._places.acquire()
        future = asyncio.get_running_loop().run_in_executor(self._executor, contextvars.copy_context().run, work)
        self._started[future] = self._clock.monotonic()
        future.add_done_callback(self._release)
        async with asyncio.timeout(limit_s):
            return await asyncio.shield(future)

    def busy_seconds(self) -> float:
        """How long the longest work under way has taken; 0 when there is none. Tells a hang."""
        now = self._clock.monotonic()
        return max((now - started for started in self._started.values()), default=0.0)

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _release(self, future: asyncio.Future[Any]) -> None:
        del self._started[future]
        self._places.release()
        if not future.cancelled():
            future.exception()  # looked at, so that an error nobody waits for any more is not reported as lost
