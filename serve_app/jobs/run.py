"""One run of a job, from its photo in the store to its result there. Knows nothing of queues and leases."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from opentelemetry.trace import NoOpTracer, Tracer

from serve_app import tracing
from serve_app.clock import Clock
from serve_app.engines.protocol import (
    Cancelled,
    Decoding,
    Done,
    EngineClient,
    EngineResult,
    Failed,
    Queued,
    Request,
    Step,
)
from serve_app.errors import (
    DeadlineExceeded,
    EngineFailed,
    EngineFull,
    EngineRejected,
    EngineUnavailable,
    HeadshotRejected,
    ObjectMissing,
    ObjectReplaced,
    OutOfMemory,
    OutputInvalid,
    PawfectError,
    PhotoTooLarge,
    PhotoUnreadable,
    QualityUnavailable,
    QualityUnknown,
    RequestRejected,
    SessionMissing,
    StageTimeout,
    StoreUnavailable,
)
from serve_app.jobs.catalog import HEADSHOTS
from serve_app.jobs.codec_threads import CodecThreads
from serve_app.jobs.headshot_links import sign_results
from serve_app.jobs.model import ANONYMOUS, Headshot, Job, Lane, Operation, Progress, Stage
from serve_app.jobs.operations import Inputs, Output, Started, start
from serve_app.jobs.stopwatch import Stopwatch
from serve_app.jobs.store import JobStore
from serve_app.jobs.transitions import Outcome
from serve_app.photos.codec import CONTENT_TYPES
from serve_app.photos.links import Links
from serve_app.photos.store import ABSENT, PhotoStore
from serve_app.settings import Settings

log = logging.getLogger(__name__)

SECONDS_PER_HOUR = 3600

FULL_PATIENCE_S = 60.0
"""How long a prepared job waits for a place in an engine."""
FULL_PAUSE_S, MAX_FULL_PAUSE_S = 0.5, 4.0
"""Before it asks again; it doubles. A replica has several places, so one that is free for a moment costs nothing."""

ENGINE_ERRORS: dict[str, type[PawfectError]] = {
    kind.code: kind
    for kind in (
        EngineUnavailable,
        EngineFull,
        OutOfMemory,
        OutputInvalid,
        DeadlineExceeded,
        PhotoUnreadable,
        PhotoTooLarge,
        RequestRejected,
    )
}
"""What an engine's failures are here, besides plainly failed and plainly rejected."""

Report = Callable[[Progress], None]
Confirm = Callable[[], Awaitable[None]]
"""Raises when the result is not wanted from this worker any more; asked right before the first effect."""


@dataclass(frozen=True, slots=True)
class _Fetched:
    """The inputs, and the generations of the results that this run is going to replace."""

    inputs: Inputs
    result_generation: str
    preview_generation: str


class Editing:
    """`engines` maps the engine names of the quality table to those that this installation runs."""

    def __init__(
        self,
        store: JobStore,
        photos: PhotoStore,
        links: Links,
        engines: Mapping[str, EngineClient],
        settings: Settings,
        clock: Clock,
        threads: CodecThreads,
        tracer: Tracer | None = None,
    ) -> None:
        self._store = store
        self._photos = photos
        self._links = links
        self._engines = engines
        self._settings = settings
        self._clock = clock
        self._threads = threads
        self._tracer = tracer or NoOpTracer()
        self._limit_s = settings.jobs.stage_timeout_s
        self._in_engine: Counter[Lane] = Counter()

    def retune(self, settings: Settings) -> None:
        """For runs that begin from now on."""
        self._settings = settings

    async def run(self, job: Job, report: Report, confirm: Confirm) -> Outcome:
        """Do the whole edit. Raises PermanentError or TransientError; writes nothing but the two result objects."""
        watch = Stopwatch(self._clock, self._tracer)
        watch.add(Stage.QUEUE, max(0.0, (job.claimed_at or job.created_at) - job.created_at))
        engine_name, engine = self._choose_engine(job)
        report(Progress(Stage.DOWNLOAD))
        with watch.time(Stage.DOWNLOAD), _limited(Stage.DOWNLOAD, self._limit_s):
            async with asyncio.timeout(self._limit_s):
                fetched = await self._download(job)
        report(Progress(Stage.DECODE))
        lane = job.operation.lane
        alone = self._in_engine[lane] == 0
        with watch.listen() as laps, _limited(Stage.DECODE, self._limit_s):
            started: Started = await self._threads.run(
                self._limit_s, partial(start, job, fetched.inputs, self._settings, laps, keep_frame=alone)
            )
        report(Progress(Stage.ENGINE))
        with watch.time(Stage.ENGINE) as span, self._entering_engine(lane):
            if self._in_engine[lane] > 1:
                started = started.without_frame()
            result, started = await self._ask_patiently(engine, started, report, tracing.write_traceparent(span))
        report(Progress(Stage.ENCODE))
        with watch.listen() as laps, _limited(Stage.ENCODE, self._limit_s):
            output = await self._threads.run(self._limit_s, partial(started.finish, result, laps))
        await confirm()
        report(Progress(Stage.UPLOAD))
        with watch.time(Stage.UPLOAD), _limited(Stage.UPLOAD, self._limit_s):
            async with asyncio.timeout(self._limit_s):
                await self._upload(job, output, fetched)
                headshot = None if output.quality is None else await self._describe(job, output.quality)
        cost = result.gpu_seconds * self._settings.engines.gpu_hour_usd / SECONDS_PER_HOUR
        return Outcome(watch.seconds, engine_name, result.engine_seconds, result.gpu_seconds, cost, headshot)

    async def _ask_patiently(
        self, engine: EngineClient, started: Started, report: Report, traceparent: str | None
    ) -> tuple[EngineResult, Started]:
        """An engine without a place is asked again: given back, the job would be claimed, downloaded and decoded anew
        for each time. Raises EngineFull when that takes so long that the queue had better decide who is next."""
        give_up_at = self._clock.monotonic() + FULL_PATIENCE_S
        pause = FULL_PAUSE_S
        while True:
            try:
                request = replace(started.request, traceparent=traceparent)
                return await _ask(engine, request, report, self._limit_s), started
            except EngineFull:
                if self._clock.monotonic() + pause > give_up_at:
                    raise
            started = started.without_frame()
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, MAX_FULL_PAUSE_S)

    @contextmanager
    def _entering_engine(self, lane: Lane) -> Iterator[None]:
        """Counts a lane's jobs that this Editor's engines have: one that comes second waits, and keeps no frame."""
        self._in_engine[lane] += 1
        try:
            yield
        finally:
            self._in_engine[lane] -= 1

    def _choose_engine(self, job: Job) -> tuple[str, EngineClient]:
        if job.operation is Operation.HEADSHOT:
            if HEADSHOTS not in self._engines:
                raise QualityUnavailable("Headshots are not made here.")
            return HEADSHOTS, self._engines[HEADSHOTS]
        name = job.parameters.quality
        row = self._settings.qualities.get(name)
        engine = job.engine or (row.engine if row is not None else "")
        if row is not None and engine in self._engines:
            return engine, self._engines[engine]
        if row is None:
            raise QualityUnknown(f"Quality '{name}' is not known; known are {', '.join(self._settings.qualities)}.")
        offered = [quality for quality, row in self._settings.qualities.items() if row.engine in self._engines]
        raise QualityUnavailable(f"Quality '{name}' is not offered here; offered are auto, {', '.join(offered)}.")

    async def _download(self, job: Job) -> _Fetched:
        if job.session is not None and await self._store.get_session(job.session) is None:
            session = job.session
            raise SessionMissing(f"There is no session {session.session_id} of user {session.user_id}.")
        files = job.files
        result, preview, original, mask = await asyncio.gather(
            self._photos.stat(files.result),
            self._stat(files.preview),
            self._read(files.original, job.original_generation),
            self._read(files.mask, job.mask_generation),
        )
        return _Fetched(Inputs(original, mask), result, preview)

    async def _stat(self, path: str | None) -> str:
        return ABSENT if path is None else await self._photos.stat(path)

    async def _read(self, path: str | None, generation: str) -> bytes | None:
        if path is None:
            return None
        name = path.rpartition("/")[2]
        if generation == ABSENT:
            raise ObjectMissing(f"There was no {name} at {path} when the message came; upload it first, then publish.")
        found = await self._photos.read(path, max_bytes=self._settings.photos.max_bytes)
        if found.generation != generation:
            raise ObjectReplaced(f"{name} was replaced after the job was asked for; ask for it again.")
        return found.data

    async def _upload(self, job: Job, output: Output, fetched: _Fetched) -> None:
        """The photo first: a preview must never stand beside an older photo than itself."""
        files, kind = job.files, CONTENT_TYPES[job.parameters.output_format]
        await self._photos.write(files.result, output.result, content_type=kind, expected=fetched.result_generation)
        if files.preview is not None and output.preview is not None:
            await self._photos.write(
                files.preview, output.preview, content_type=output.preview_type, expected=fetched.preview_generation
            )

    async def _describe(self, job: Job, quality: Mapping[str, Any]) -> Headshot:
        """With links for whoever reads the document alone; there is none to the print for a caller nobody knows. A
        headshot that is there is not made again because nobody signs: the route gives links as soon as somebody does.
        """
        try:
            links = await sign_results(self._links, job, with_print=job.owner != ANONYMOUS)
        except StoreUnavailable as error:
            log.warning("a headshot's document has no links: %s", error, extra={"job": job.id})
            return Headshot(quality)
        return Headshot(quality, links.preview.url, links.print.url if links.print else None, links.preview.expires_at)


@contextmanager
def _limited(stage: Stage, limit_s: float) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise StageTimeout(f"The stage {stage} took longer than {limit_s:.0f} s.") from None


async def _ask(engine: EngineClient, request: Request, report: Report, silence_s: float) -> EngineResult:
    """Waiting for its turn, a request may take for ever; once it has begun, something must happen every `silence_s`."""
    result, begun, progress = None, False, Progress(Stage.ENGINE)
    async with aclosing(engine.run(request)) as events:
        while True:
            with _limited(Stage.ENGINE, silence_s):
                async with asyncio.timeout(silence_s if begun else None):
                    event = await anext(events, None)
            if event is None:
                break
            begun = begun or not isinstance(event, Queued)
            if isinstance(event, Queued | Step | Decoding):
                progress = _advance(progress, event)
                report(progress)
            else:
                result = _conclude(event)
    if result is None:
        raise EngineFailed("The engine ended without a result.")
    return result


def _advance(progress: Progress, event: Queued | Step | Decoding) -> Progress:
    match event:
        case Queued(position, eta_s):
            return Progress(Stage.ENGINE, eta_s=eta_s, position=position)
        case Step(step, steps, eta_s):
            return Progress(Stage.ENGINE, step, steps, eta_s)
        case Decoding():
            return replace(progress, position=None, decoding=True)


def _conclude(event: Done | Failed | Cancelled) -> EngineResult:
    match event:
        case Done(result):
            return result
        case Failed(HeadshotRejected.code, message, _, details):
            raise HeadshotRejected(message, details or {})
        case Failed(code, message, retryable):
            raise ENGINE_ERRORS.get(code, EngineFailed if retryable else EngineRejected)(message)
        case Cancelled():
            raise EngineUnavailable("The engine was shut down before it came to this photo.")
