"""The claim loop: takes jobs of one lane from the store, runs several at a time, and writes how each ended.

Started when a replica starts and never inside a request, so that no client's connection decides over a job.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections import deque
from collections.abc import Callable

from opentelemetry.trace import NoOpTracer, Tracer

from serve_app import metrics
from serve_app.clock import Clock
from serve_app.errors import (
    DeadlineExceeded,
    LeaseLost,
    PawfectError,
    PreconditionFailed,
    StoreUnavailable,
    UnexpectedFailure,
)
from serve_app.jobs import session_view, transitions
from serve_app.jobs.closing import Closer
from serve_app.jobs.hold import Hold, Interruption
from serve_app.jobs.model import Job, Lane, Priority, Status
from serve_app.jobs.run import Editing
from serve_app.jobs.run_spans import note_error, note_result, trace_run
from serve_app.jobs.session_view import Document
from serve_app.jobs.store import JobStore, Write
from serve_app.metrics import Sink
from serve_app.settings_sections import JobSettings

log = logging.getLogger(__name__)

IDLE_FACTOR = 8
"""Times the poll interval that an idle Editor comes to wait; each look costs reads, and a push nudges it anyway."""
CALM_SHARE = 1 / 3
"""Of a lease's time, after an outage of the store, in which leases that ran out meanwhile are left to their holders."""
UNANSWERED = 10_000
"""Claims without an answer that are remembered: those of some hours of an outage."""
OnWork = Callable[[str, float], None]
"""Told of each completed run: the engine and the seconds it worked on it."""
FAULT_PAUSE_S = 1.0
"""Pause of the claim loop after the store did not answer, or after a defect of ours."""


class Runner:
    def __init__(
        self,
        store: JobStore,
        editing: Editing,
        closer: Closer,
        settings: JobSettings,
        clock: Clock,
        sink: Sink,
        lane: Lane = Lane.IMAGES,
        slots: int | None = None,
        tracer: Tracer | None = None,
        *,
        is_paused: Callable[[], bool] = lambda: False,
        on_work: OnWork = lambda _engine, _seconds: None,
    ) -> None:
        """Without `slots` as many as the settings say, and some of those for urgent jobs."""
        self._is_paused = is_paused
        self._on_work = on_work
        self._lane = lane
        self._slots = slots or settings.slots
        self._urgent_slots = settings.urgent_slots if slots is None else 0
        self._store = store
        self._editing = editing
        self._closer = closer
        self._settings = settings
        self._clock = clock
        self._sink = sink
        self._tracer = tracer or NoOpTracer()
        self._active: dict[asyncio.Task[None], Hold] = {}
        self._wake = asyncio.Event()
        self._draining = False
        self._calm_until = float("-inf")
        self._unanswered: deque[str] = deque(maxlen=UNANSWERED)
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._loop = asyncio.create_task(self._claim_forever(), name="claim-loop")

    @property
    def is_alive(self) -> bool:
        return self._loop is not None and not self._loop.done()

    def nudge(self) -> None:
        """Say that there may be something to claim, so that it need not wait for the next poll."""
        self._wake.set()

    async def drain(self, timeout_s: float) -> None:
        """Claim nothing more, give back to the queue what no engine has begun, and let the others finish; after
        `timeout_s` give those back, too, unharmed."""
        self._draining = True
        self._wake.set()
        if self._loop is not None:
            await asyncio.gather(self._loop, return_exceptions=True)
        if self._active:
            await asyncio.wait(self._active, timeout=timeout_s)
        for task, hold in self._active.items():
            if not hold.is_over:  # its end would stay unwritten, and be taken for a crash
                task.cancel()
        await asyncio.gather(*self._active, return_exceptions=True)

    # -- claiming ----------------------------------------------------------------------------------------------------

    async def _claim_forever(self) -> None:
        idle = 0
        while not self._draining:
            try:
                idle = 0 if await self._claim_one() else idle + 1
                if idle:
                    await self._rest(self._settings.claim_poll_s * min(idle, IDLE_FACTOR))
            except StoreUnavailable as error:
                log.warning("nothing claimed: %s", error)
                self._calm_until = self._clock.monotonic() + self._settings.lease_s * CALM_SHARE
                await self._rest(FAULT_PAUSE_S)
            except Exception:
                log.exception("defect in the claim loop")
                await self._rest(FAULT_PAUSE_S)

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)
        self._wake.clear()

    async def _claim_one(self) -> bool:
        if len(self._active) >= self._slots or self._is_paused():
            return False
        normal = sum(hold.job.priority is not Priority.URGENT for hold in self._active.values())
        urgent_only = normal >= self._slots - self._urgent_slots
        token = uuid.uuid4().hex
        now = self._clock.now()
        crashed = False

        def decide(job: Job | None, document: Document | None) -> Write | None:
            nonlocal crashed
            assert job is not None
            if crashed := self._is_abandoned(job):
                log.warning("a worker died", extra={"job": job.id})
            if document is not None and not session_view.is_shown(job.id, document):
                return Write(transitions.cancel(job, now, transitions.SUPERSEDED))
            claimed = transitions.claim(job, token, now, self._settings, crashed=crashed)
            return Write(claimed, session_view.describe(claimed))

        try:
            job = await self._store.claim(now, decide, urgent_only=urgent_only, lane=self._lane)
        except _Alive:
            return False
        except StoreUnavailable:
            self._unanswered.append(token)
            raise
        if job is None:
            return False
        if crashed:
            self._sink.record(metrics.ATTEMPTS, result="crashed")
        if job.status is Status.PROCESSING:
            self._launch(Hold(self._store, self._clock, self._settings, job, token, self._begins_nothing))
        else:
            await self._closer.close(job)
        return True

    def _begins_nothing(self) -> bool:
        return self._draining or self._is_paused()

    def _is_abandoned(self, job: Job) -> bool:
        """Whether a job's worker died. A lease may also have run out because the store was out: then its worker, which
        may be this one, is given the time to renew it, which raises _Alive. A claim of ours that the store granted
        without our hearing of it was no run at all."""
        if job.status is not Status.PROCESSING or job.lease is None:
            return False
        if job.lease.token in self._unanswered:
            return False
        is_ours = any(hold.token == job.lease.token for hold in self._active.values())
        if is_ours or self._clock.monotonic() < self._calm_until:
            raise _Alive
        return True

    def _launch(self, hold: Hold) -> None:
        task = asyncio.create_task(self._serve(hold), name=f"job-{hold.job.id}")
        self._active[task] = hold
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._active[task]
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a run ended without being settled; its lease will run out", exc_info=error)

    # -- one run ------------------------------------------------------------------------------------------------------

    async def _serve(self, hold: Hold) -> None:
        with trace_run(self._tracer, hold.job):
            log.info("claimed", extra={"job": hold.job.id, "attempt": hold.job.attempts})
            await self._run(hold)

    async def _run(self, hold: Hold) -> None:
        work = asyncio.create_task(self._work(hold))
        keep = asyncio.create_task(hold.keep())
        try:
            await asyncio.wait({work, keep}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # the drain's time is over
            if not hold.is_committed:
                await _stop(work, keep)
                await self._finish(hold, lambda job, token, _now, _superseded: transitions.release(job, token))
                return
            await asyncio.wait({work, keep}, return_when=asyncio.FIRST_COMPLETED)
        hold.is_over = True
        if work.done():
            await _stop(keep)
            await self._finish(hold, work.result())
            return
        await _stop(work)
        if keep.result() is Interruption.LOST:
            self._count("lost", None)
        else:
            await self._finish(hold, transitions.obey)

    async def _work(self, hold: Hold) -> transitions.End:
        """Run the job and return how it ended; never raises but for cancellation."""
        settings, job = self._settings, hold.job
        try:
            async with asyncio.timeout(max(0.0, job.deadline_at - self._clock.now())):
                outcome = await self._editing.run(job, hold.report, lambda: _insist(hold))
        except TimeoutError:
            waited = job.deadline_at - job.created_at
            late = DeadlineExceeded(f"Not finished within {waited:.0f} s of its arrival.")
            return _settle(late, settings)
        except _Interrupted:
            return transitions.obey
        except PreconditionFailed as error:
            # Another run of this session wrote first. If ours still is the wanted one it runs again and replaces that.
            log.warning("result not written: %s", error, extra={"job": job.id})
            return _settle(error, settings)
        except PawfectError as error:
            return _settle(error, settings)
        except Exception as error:
            log.exception("unexpected failure", extra={"job": job.id})
            return _settle(UnexpectedFailure(f"{type(error).__name__}: {error}"), settings)
        self._sink.record(metrics.ENGINE_SECONDS, outcome.engine_seconds, engine=outcome.engine)
        self._sink.record(metrics.GPU_SECONDS, outcome.gpu_seconds, engine=outcome.engine)
        self._on_work(outcome.engine, outcome.engine_seconds)
        return transitions.completing(outcome)

    async def _finish(self, hold: Hold, end: transitions.End) -> None:
        before = hold.job
        job = await hold.end(end)
        self._count("lost" if job is None else _name_result(before, job), job)
        if job is None or not job.status.is_final:
            return
        try:
            await self._closer.close(job, ran_here=True)
        except StoreUnavailable as error:
            log.warning("end not closed yet: %s", error, extra={"job": job.id})

    def _count(self, result: str, job: Job | None) -> None:
        self._sink.record(metrics.ATTEMPTS, result=result)
        note_result(result, job)


def _settle(error: PawfectError, settings: JobSettings) -> transitions.End:
    note_error(error)
    return transitions.settling(error, settings)


def _name_result(before: Job, after: Job) -> str:
    """How a run ended, as a label: a final status, or why it is queued again."""
    if after.status.is_final:
        return str(after.status)
    if after.transient_failures > before.transient_failures:
        return "retried"
    return "postponed" if after.not_before > before.not_before else "released"


class _Alive(Exception):
    """The first job to claim has a worker that may only have been cut off from the store."""


class _Interrupted(Exception):
    """The hold says the result is not wanted; how the run ends is decided where the job is written."""


async def _insist(hold: Hold) -> None:
    match await hold.confirm():
        case None:
            return
        case Interruption.LOST:
            raise LeaseLost("Another worker has taken this job over.")
        case _:
            raise _Interrupted


async def _stop(*tasks: asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
