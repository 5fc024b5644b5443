"""The jobs of one waiting request: begun together, and gone with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import AsyncExitStack, aclosing
from types import TracebackType
from typing import Any, Self, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from ingress.image_orders import ImageOrder
from ingress.image_problems import require_success
from ingress.request_spans import note_jobs
from ingress.services import Services
from serve_app.errors import Conflict, NotFound, StoreUnavailable
from serve_app.jobs.model import Job

log = logging.getLogger(__name__)

T = TypeVar("T")


class WaitingJobs:
    """As a context: submits all jobs of an order or none, and cancels those that have not ended when it is left by an
    exception: a job that failed, a caller who hung up, a server that stops. Raises what the submission raises."""

    def __init__(self, services: Services, order: ImageOrder) -> None:
        self._services = services
        self._order = order
        self.jobs: Sequence[Job] = ()

    async def __aenter__(self) -> Self:
        submitting = asyncio.create_task(self._submit())
        try:
            await asyncio.shield(submitting)
        except BaseException:
            # To the end, also when the caller has gone: a job just being written would be nobody's to cancel.
            await asyncio.gather(submitting, return_exceptions=True)
            await self.cancel()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            await self.cancel()

    async def finish(self) -> list[Job]:
        """All of them, completed. Raises Unsuccessful as soon as that cannot be any more."""
        waits = [asyncio.create_task(self._finish(job)) for job in self.jobs]
        try:
            return await asyncio.gather(*waits)
        finally:
            await _end(waits)

    async def follow(self, pause_s: float) -> AsyncGenerator[tuple[int, Job] | None]:
        """Snapshots of the jobs with their places in the order, each job's last one completed; None after every
        `pause_s` without any. Raises Unsuccessful."""
        ends = {asyncio.create_task(self._finish(job)): place for place, job in enumerate(self.jobs)}
        async with AsyncExitStack() as watches:
            open_watches = [
                await watches.enter_async_context(aclosing(self._services.jobs.watch(job.id))) for job in self.jobs
            ]
            turns = {asyncio.create_task(anext(watch, None)): place for place, watch in enumerate(open_watches)}
            try:
                while ends:
                    done, _ = await asyncio.wait({*ends, *turns}, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
                    if not done:
                        yield None
                    for turn in [turn for turn in turns if turn in done]:
                        place, job = turns.pop(turn), turn.result()
                        if job is not None and not job.status.is_final:
                            turns[asyncio.create_task(anext(open_watches[place], None))] = place
                            yield place, job
                    for end in [end for end in ends if end in done]:
                        yield ends.pop(end), end.result()
            finally:
                await _end([*ends, *turns])

    async def cancel(self) -> None:
        """Those that have not ended."""
        await asyncio.shield(asyncio.gather(*(self._cancel_one(job) for job in self.jobs)))

    async def _submit(self) -> None:
        services, order = self._services, self._order
        async with AsyncExitStack() as places:
            for _ in order.jobs[1:]:  # the request has one place already
                await places.enter_async_context(services.submitting(order.caller))
            found = await asyncio.gather(
                *(services.submitter.submit(job) for job in order.jobs), return_exceptions=True
            )
        self.jobs = [job for job in found if isinstance(job, Job)]
        for error in found:
            if isinstance(error, BaseException):
                raise error
        note_jobs(*self.jobs)
        log.info("images are asked for", extra={"caller": order.caller.id, "jobs": [job.id for job in self.jobs]})
        services.nudge()

    async def _finish(self, job: Job) -> Job:
        return require_success(job, await self._services.jobs.wait(job.id, self._services.settings.jobs.push_wait_s))

    async def _cancel_one(self, job: Job) -> None:
        try:
            await self._services.jobs.cancel(job.id)
        except (Conflict, NotFound):
            return  # it has ended
        except StoreUnavailable:
            log.warning("a job that nobody waits for runs until its deadline", extra={"job": job.id})
            return
        log.info("a job that nobody waits for is cancelled", extra={"job": job.id})


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client hangs up. To be called once the body is read. Raises
    ClientDisconnect."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(_notice_leaving(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        await _end([working, leaving])


async def _notice_leaving(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
