"""Telling watchers that somebody, in whichever process, changed their job: one look per interval for all jobs, and one
read of a changed job for all who watch it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from serve_app.errors import StoreUnavailable
from serve_app.jobs.model import Job

log = logging.getLogger(__name__)

RECHECK_S = 10.0
"""How often every watched job is read, whatever was or was not heard of it."""

Get = Callable[[str], Awaitable[Job | None]]


class Changes(Protocol):
    async def read(self) -> set[str] | None:
        """The ids of the jobs changed since the last call; None for all, when nothing was read before."""


class Watchers:
    """Of one process and event loop. `open_changes` begins anew after an outage."""

    def __init__(self, open_changes: Callable[[], Changes], interval_s: float) -> None:
        self._open_changes = open_changes
        self._interval_s = interval_s
        self._watches: dict[str, _Watch] = {}
        self._poller: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def follow(self, job_id: str, get: Get) -> AsyncGenerator[Job]:
        """The job now and after each change, as `get` reads it; ends after a final status, or when there is none.

        What it yields first was read after it was asked for. Raises what `get` does, to all who waited for that read.
        """
        seen = -1
        with self._join(job_id, get) as watch:
            wanted = watch.ask()
            while True:
                number, job = await watch.await_read(wanted)
                if job is None:
                    return
                if job.version != seen:
                    seen = job.version
                    yield job
                if job.status.is_final:
                    return
                wanted = number + 1

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @contextmanager
    def _join(self, job_id: str, get: Get) -> Iterator[_Watch]:
        watch = self._watches.get(job_id)
        if watch is None:
            watch = self._watches[job_id] = _Watch(job_id, get)
            watch.reader = self._start(watch.read_when_asked(), f"watch-{job_id}")
        if self._poller is None or self._poller.done():
            self._poller = self._start(self._poll(), "changes")
        watch.watchers += 1
        try:
            yield watch
        finally:
            watch.watchers -= 1
            if not watch.watchers:
                del self._watches[job_id]
                watch.reader.cancel()

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _poll(self) -> None:
        clock = asyncio.get_running_loop().time
        changes, rechecked = self._open_changes(), clock()
        while self._watches:
            try:
                touched = await changes.read()
            except StoreUnavailable:
                touched, changes = None, self._open_changes()  # let their own reads tell them
            except Exception:
                log.exception("defect in watching for changes")
                touched = None
            if clock() - rechecked >= RECHECK_S:
                touched = None
            if touched is None:
                rechecked = clock()
            for job_id in list(self._watches) if touched is None else touched:
                if (watch := self._watches.get(job_id)) is not None:
                    watch.ask()
            await asyncio.sleep(self._interval_s)


class _Watch:
    """One job's reads, numbered from 1, one at a time, for all who watch it.

    Who waits for a read waits for its number or a later one: a read that was under way when he asked may have missed
    what made him ask. Only the newest result is kept, so one who comes late to it skips what lay between.
    """

    reader: asyncio.Task[None]

    def __init__(self, job_id: str, get: Get) -> None:
        self.watchers = 0
        self._job_id = job_id
        self._get = get
        self._begun = self._finished = 0
        self._asked = asyncio.Event()
        self._news = asyncio.Event()
        self._found: Job | None = None
        self._error: Exception | None = None

    def ask(self) -> int:
        """Have the job read; returns the number of the first read that begins after this."""
        self._asked.set()
        return self._begun + 1

    async def await_read(self, number: int) -> tuple[int, Job | None]:
        """The newest read's number and what it found, once that number is at least the given one."""
        while self._finished < number:
            await self._news.wait()
        if self._error is not None:
            raise self._error.with_traceback(None)  # many raise it; its traceback would grow with each
        return self._finished, self._found

    async def read_when_asked(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            self._begun += 1
            try:
                self._found, self._error = await self._get(self._job_id), None
            except Exception as error:
                self._error = error
            self._finished = self._begun
            self._news.set()
            self._news = asyncio.Event()
            await asyncio.sleep(0)  # they see it before the next read can replace it
