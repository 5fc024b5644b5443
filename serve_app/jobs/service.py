"""What the outside may do with jobs: submit, find, cancel, wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from serve_app.clock import Clock
from serve_app.errors import InvalidRequest, NotFound, StoreUnavailable
from serve_app.jobs import session_view, transitions
from serve_app.jobs.admission import NotClosed, admit
from serve_app.jobs.closing import Closer
from serve_app.jobs.model import Job, Parameters, Priority, Session, Status, derive_id
from serve_app.jobs.session_view import Document
from serve_app.jobs.store import JobStore, Write
from serve_app.photos.store import PhotoStore
from serve_app.settings import Settings
from serve_app.tracing import current_traceparent

OUTAGE_PAUSE_S = 1.0
"""Pause of a waiting request before it asks a store again that did not answer."""

PAUSE_POLL_S = 1.0
"""How often a waiting request looks whether consumption has been paused."""

STOP_POLL_S = 0.5
"""How often a waiting request looks, while the service stops, whether its job has gone back to the queue."""


@dataclass(frozen=True, slots=True)
class EditOrder:
    """A checked wish to edit a session's photo; `None` means "as configured".

    `delivery` identifies the message: a repeat of it is answered with what came of the first, a new one may run a
    failed job again. `message` is the text that was sent. `published_at` is a Unix time.
    """

    session: Session
    delivery: str
    message: str = ""
    published_at: float | None = None
    prompt: str | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    quality: str | None = None
    priority: Priority = Priority.NORMAL
    deadline_s: float | None = None


class JobService:
    def __init__(
        self,
        store: JobStore,
        photos: PhotoStore,
        closer: Closer,
        settings: Settings,
        clock: Clock,
        *,
        stopping: asyncio.Event | None = None,
        is_paused: Callable[[], bool] = lambda: False,
    ) -> None:
        """`stopping` is shared by those that end together."""
        self._store = store
        self._closer = closer
        self._photos = photos
        self._settings = settings
        self._clock = clock
        self._stopping = stopping or asyncio.Event()
        self._is_paused = is_paused

    async def submit(self, order: EditOrder) -> Job:
        """Accept an order, idempotently; once this returns the job survives any crash.

        Raises InvalidRequest for a quality that is no row of the table, StoreUnavailable.
        """
        session = order.session
        parameters = self.resolve(order)
        original, mask = await asyncio.gather(
            self._photos.stat(session.original_path), self._photos.stat(session.mask_path)
        )
        now = self._clock.now()
        deadline_at = now + (order.deadline_s or self._settings.jobs.deadline_s)
        fresh = Job(
            id=derive_id(session, original, mask, parameters),
            session=session,
            original_generation=original,
            mask_generation=mask,
            parameters=parameters,
            created_at=now,
            published_at=order.published_at if order.published_at is not None else now,
            deadline_at=deadline_at,
            expires_at=deadline_at + self._settings.jobs.record_ttl_s,
            engine=self._settings.qualities[parameters.quality].engine,
            priority=order.priority,
            deliveries=(order.delivery,),
            message=order.message,
            traceparent=current_traceparent(),
        )
        return await self.admit(fresh, order.delivery)

    async def admit(self, fresh: Job, delivery: str) -> Job:
        """The job that comes of a message, for which `fresh` is what it describes. Raises Conflict for an id that
        another job has, StoreUnavailable."""
        while True:
            try:
                job = await self._store.change(
                    fresh.id, fresh.session, lambda found, document: admit(found, document, fresh, delivery)
                )
            except NotClosed as unfinished:  # its dead letter must be written before it starts over
                await self._closer.close(unfinished.job)
            else:
                assert job is not None
                if job.status.is_final and not job.closed:
                    await self._closer.close(job)
                return job

    async def create(self, fresh: Job) -> Job:
        """The job of this id: `fresh`, unless there is one already. Raises StoreUnavailable."""
        job = await self._store.change(fresh.id, fresh.session, lambda found, _: None if found else Write(fresh))
        assert job is not None
        return job

    def resolve(self, order: EditOrder) -> Parameters:
        name = order.quality if order.quality not in (None, "auto") else self._settings.quality
        row = self._settings.qualities.get(name)
        if row is None:
            raise InvalidRequest(
                f"quality '{name}' is not known; accepted are auto, {', '.join(self._settings.qualities)}.", "quality"
            )
        return Parameters(
            quality=name,
            prompt=order.prompt or self._settings.prompt,
            steps=order.steps if order.steps is not None else row.steps,
            guidance_scale=order.guidance_scale if order.guidance_scale is not None else row.guidance,
            seed=order.seed,
        )

    async def find_session(self, session: Session) -> tuple[Document, Job | None]:
        """A session's document and the job it shows, if any. Raises NotFound."""
        document = await self._store.get_session(session)
        if document is None:
            raise NotFound(f"There is no session {session.session_id} of user {session.user_id}.")
        job_id = document.get("jobId")
        return document, await self._store.get(job_id) if job_id else None

    async def refuse(self, session: Session, message: str) -> None:
        """Show in the session's document, where there is one, that a message about it was not accepted."""
        await self._store.merge_session(session, lambda document: session_view.refuse(message, document))

    async def cancel(self, job_id: str) -> Job:
        """Raises NotFound for an unknown job, Conflict for a finished one."""
        found = await self._store.get(job_id)
        if found is None:
            raise NotFound(f"There is no job {job_id}.")

        def decide(job: Job | None, document: Document | None) -> Write | None:
            if job is None:  # it has been forgotten since
                raise NotFound(f"There is no job {job_id}.")
            changed = transitions.request_cancel(job, self._clock.now())
            return None if changed is job else Write(changed, _show(changed, document))

        job = await self._store.change(job_id, found.session, decide)
        assert job is not None
        if job.status.is_final:
            await self._closer.close(job)
        return job

    async def get(self, job_id: str) -> Job:
        """Raises NotFound."""
        job = await self._store.get(job_id)
        if job is None:
            raise NotFound(f"There is no job {job_id}.")
        return job

    async def watch(self, job_id: str) -> AsyncGenerator[Job]:
        """As `JobStore.watch`, and an outage of the store is waited out. One read serves all watchers of a job in this
        process."""
        while True:
            try:
                async with aclosing(self._store.watch(job_id)) as jobs:
                    async for job in jobs:
                        yield job
                return
            except StoreUnavailable:
                await asyncio.sleep(OUTAGE_PAUSE_S)

    async def list_owned(self, owner: str, *, limit: int, before: tuple[float, str] | None = None) -> Sequence[Job]:
        return await self._store.list_owned(owner, limit=limit, before=before)

    def stop_waiting(self) -> None:
        """From now on nobody waits for a job that no worker has: the workers are being stopped, too."""
        self._stopping.set()

    async def await_stop(self) -> None:
        """Returns once `stop_waiting` has been called."""
        await self._stopping.wait()

    async def wait(self, job_id: str, timeout_s: float) -> Job | None:
        """The job once it has a final status; None if that takes longer. An outage of the store is waited out."""
        ended = asyncio.create_task(self._follow(job_id))
        left_alone = asyncio.create_task(self._notice_stop(job_id))
        try:
            await asyncio.wait({ended, left_alone}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            return ended.result() if ended.done() else None
        finally:
            for task in (ended, left_alone):
                task.cancel()
            await asyncio.gather(ended, left_alone, return_exceptions=True)

    async def _follow(self, job_id: str) -> Job | None:
        async with aclosing(self.watch(job_id)) as jobs:
            async for job in jobs:
                if job.status.is_final:
                    return job
        return None

    async def _notice_stop(self, job_id: str) -> None:
        """Returns when work is being stopped, or has been paused, and the job lies in the queue, where it stays."""
        while True:
            while not self._is_paused() and not self._stopping.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), PAUSE_POLL_S)
            with contextlib.suppress(StoreUnavailable):
                job = await self._store.get(job_id)
                if job is None or job.status is Status.QUEUED:
                    return
            await asyncio.sleep(STOP_POLL_S)


def _show(job: Job, document: Document | None) -> dict[str, object] | None:
    return session_view.describe(job) if session_view.is_shown(job.id, document) else None
