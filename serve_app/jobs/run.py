"""One run of a job, from its photo in the store to its result there. Knows nothing of queues and leases."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from functools import partial

from serve_app.clock import Clock
from serve_app.editing import edit
from serve_app.engines.protocol import (
    Cancelled,
    Crop,
    Decoding,
    Done,
    EngineClient,
    EngineResult,
    Event,
    Failed,
    FillRequest,
    Queued,
    Step,
)
from serve_app.errors import (
    DeadlineExceeded,
    EngineFailed,
    EngineFull,
    EngineRejected,
    EngineUnavailable,
    ObjectMissing,
    ObjectReplaced,
    OutputInvalid,
    PawfectError,
    QualityUnavailable,
    SessionMissing,
    StageTimeout,
)
from serve_app.jobs.codec_threads import CodecThreads
from serve_app.jobs.model import Job, Progress, Session, Stage
from serve_app.jobs.store import JobStore
from serve_app.jobs.transitions import Outcome
from serve_app.photos.store import ABSENT, PhotoStore
from serve_app.settings import Settings

SECONDS_PER_HOUR = 3600

ENGINE_ERRORS: dict[str, type[PawfectError]] = {
    kind.code: kind for kind in (EngineUnavailable, EngineFull, OutputInvalid, DeadlineExceeded)
}
"""What an engine's failures are here, besides plainly failed and plainly rejected."""

Report = Callable[[Progress], None]
Confirm = Callable[[], Awaitable[None]]
"""Raises when the result is not wanted from this worker any more; asked right before the first effect."""


class Stopwatch:
    """Seconds per stage; a stage entered twice adds up."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, stage: Stage) -> Iterator[None]:
        start = self._clock.monotonic()
        try:
            yield
        finally:
            self.add({stage: self._clock.monotonic() - start})

    def add(self, seconds: Mapping[str, float]) -> None:
        for stage, value in seconds.items():
            self.seconds[str(stage)] = self.seconds.get(str(stage), 0.0) + value


@dataclass(frozen=True, slots=True)
class _Inputs:
    original: bytes
    mask: bytes
    edited_generation: str
    preview_generation: str


class Editing:
    """`engines` maps the engine names of the quality table to those that this installation runs."""

    def __init__(
        self,
        store: JobStore,
        photos: PhotoStore,
        engines: Mapping[str, EngineClient],
        settings: Settings,
        clock: Clock,
        threads: CodecThreads,
    ) -> None:
        self._store = store
        self._photos = photos
        self._engines = engines
        self._settings = settings
        self._clock = clock
        self._threads = threads
        self._limit_s = settings.jobs.stage_timeout_s
        self._in_engine = 0

    async def run(self, job: Job, report: Report, confirm: Confirm) -> Outcome:
        """Do the whole edit. Raises PermanentError or TransientError; writes nothing but the two result objects."""
        watch = Stopwatch(self._clock)
        watch.add({Stage.QUEUE: max(0.0, (job.claimed_at or job.created_at) - job.created_at)})
        engine_name, engine = self._choose_engine(job)
        report(Progress(Stage.DOWNLOAD))
        with watch.time(Stage.DOWNLOAD), _limited(Stage.DOWNLOAD, self._limit_s):
            async with asyncio.timeout(self._limit_s):
                inputs = await self._download(job)
        report(Progress(Stage.DECODE))
        quality = self._settings.qualities[job.parameters.quality]
        alone = self._in_engine == 0
        prepare = partial(edit.prepare, inputs.original, inputs.mask, quality, self._settings, keep_frame=alone)
        with _limited(Stage.DECODE, self._limit_s):
            prepared = await self._threads.run(self._limit_s, prepare)
        watch.add(prepared.seconds)
        report(Progress(Stage.ENGINE))
        with watch.time(Stage.ENGINE), self._entering_engine():
            if self._in_engine > 1:
                prepared = prepared.without_frame()
            result = await _fill(engine, _make_request(job, prepared.crops), report, self._limit_s)
        report(Progress(Stage.ENCODE))
        with _limited(Stage.ENCODE, self._limit_s):
            finish = partial(edit.finish, prepared, result.images, self._settings)
            edited = await self._threads.run(self._limit_s, finish)
        watch.add(edited.seconds)
        await confirm()
        report(Progress(Stage.UPLOAD))
        with watch.time(Stage.UPLOAD), _limited(Stage.UPLOAD, self._limit_s):
            async with asyncio.timeout(self._limit_s):
                await self._upload(job.session, edited, inputs)
        cost = result.gpu_seconds * self._settings.engines.gpu_hour_usd / SECONDS_PER_HOUR
        return Outcome(watch.seconds, engine_name, result.engine_seconds, result.gpu_seconds, cost)

    @contextmanager
    def _entering_engine(self) -> Iterator[None]:
        """Counts the jobs of this Editor that an engine has: one that comes second waits, and keeps no frame."""
        self._in_engine += 1
        try:
            yield
        finally:
            self._in_engine -= 1

    def _choose_engine(self, job: Job) -> tuple[str, EngineClient]:
        name = job.parameters.quality
        row = self._settings.qualities.get(name)
        if row is not None and row.engine in self._engines:
            return row.engine, self._engines[row.engine]
        offered = [quality for quality, row in self._settings.qualities.items() if row.engine in self._engines]
        raise QualityUnavailable(f"Quality '{name}' is not offered here; offered are auto, {', '.join(offered)}.")

    async def _download(self, job: Job) -> _Inputs:
        """The inputs, and the generations of the results that this run is going to replace."""
        session = job.session
        if await self._store.get_session(session) is None:
            raise SessionMissing(f"There is no session {session.session_id} of user {session.user_id}.")
        edited, preview, original, mask = await asyncio.gather(
            self._photos.stat(session.edited_path),
            self._photos.stat(session.preview_path),
            self._read(session.original_path, job.original_generation),
            self._read(session.mask_path, job.mask_generation),
        )
        return _Inputs(original, mask, edited, preview)

    async def _read(self, path: str, generation: str) -> bytes:
        name = path.rpartition("/")[2]
        if generation == ABSENT:
            raise ObjectMissing(f"There was no {name} at {path} when the message came; upload it first, then publish.")
        found = await self._photos.read(path, max_bytes=self._settings.photos.max_bytes)
        if found.generation != generation:
            raise ObjectReplaced(f"{name} was replaced after the edit was asked for; publish the session again.")
        return found.data

    async def _upload(self, session: Session, edited: edit.Edited, inputs: _Inputs) -> None:
        """The photo first: a preview must never stand beside an older photo than itself."""
        await self._photos.write(
            session.edited_path, edited.photo, content_type="image/jpeg", expected=inputs.edited_generation
        )
        await self._photos.write(
            session.preview_path, edited.preview, content_type="image/jpeg", expected=inputs.preview_generation
        )


@contextmanager
def _limited(stage: Stage, limit_s: float) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise StageTimeout(f"The stage {stage} took longer than {limit_s:.0f} s.") from None


def _make_request(job: Job, crops: tuple[Crop, ...]) -> FillRequest:
    return FillRequest(
        request_id=f"{job.id}/{job.attempts}",
        crops=crops,
        prompt=job.parameters.prompt,
        steps=job.parameters.steps,
        guidance=job.parameters.guidance_scale,
        seed=job.seed,
        priority=int(job.priority),
        submitted_at=job.created_at,
        deadline_at=job.deadline_at,
    )


async def _fill(engine: EngineClient, request: FillRequest, report: Report, silence_s: float) -> EngineResult:
    """Waiting for its turn, a request may take for ever; once it has begun, something must happen every `silence_s`."""
    result, begun = None, False
    async with aclosing(engine.run(request)) as events:
        while True:
            with _limited(Stage.ENGINE, silence_s):
                async with asyncio.timeout(silence_s if begun else None):
                    event = await anext(events, None)
            if event is None:
                break
            begun = begun or not isinstance(event, Queued)
            result = _consume(event, report) or result
    if result is None:
        raise EngineFailed("The engine ended without a result.")
    return result


def _consume(event: Event, report: Report) -> EngineResult | None:
    match event:
        case Queued(eta_s=eta_s):
            report(Progress(Stage.ENGINE, eta_s=eta_s))
        case Step(step, steps, eta_s):
            report(Progress(Stage.ENGINE, step, steps, eta_s))
        case Decoding():
            pass
        case Done(result):
            return result
        case Failed(code, message, retryable):
            raise ENGINE_ERRORS.get(code, EngineFailed if retryable else EngineRejected)(message)
        case Cancelled():
            raise EngineUnavailable("The engine was shut down before it came to this photo.")
    return None
