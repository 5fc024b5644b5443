"""Headshots as an engine: a file in, two PNG files out, in pieces between which it can be cancelled."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack

from serve_app import metrics
from serve_app.clock import Clock
from serve_app.engines.protocol import EngineResult, HeadshotRequest, HeadshotResult, Step, Task
from serve_app.engines.serial import SerialEngine, Turn
from serve_app.engines.trace import Trace
from serve_app.errors import EngineRejected, HeadshotRejected
from serve_app.headshots.matting import Matting
from serve_app.headshots.pipeline import STAGES, make_headshot
from serve_app.metrics import Sink
from serve_app.photos.codec import decode_srgb
from serve_app.settings_headshots import HeadshotSettings
from serve_app.settings_sections import PhotoSettings

PHOTO = "The photo"
"""What messages call it."""


class HeadshotEngine(SerialEngine):
    """An `engines.protocol.Engine`; prompt, steps, guidance and seed have no effect on it."""

    def __init__(
        self,
        matting: Matting,
        settings: HeadshotSettings,
        photos: PhotoSettings,
        sink: Sink,
        *,
        clock: Clock | None = None,
        trace: Trace | None = None,
    ) -> None:
        self._matting = matting
        self._settings = settings
        self._photos = photos
        self._sink = sink
        super().__init__("headshots", self._make, clock=clock, trace=trace)

    def _make(self, turn: Turn) -> EngineResult:
        """Raises EngineRejected, PhotoUnreadable, PhotoTooLarge, HeadshotRejected."""
        request = turn.request
        if not isinstance(request, HeadshotRequest):
            raise EngineRejected(f"the headshots engine does not do {request.task}; it does {Task.HEADSHOT}")
        started = self._clock.monotonic()
        with _Pieces(turn) as pieces:
            pixels = decode_srgb(request.photo, self._photos, PHOTO)
            decoded = self._clock.monotonic()
            try:
                headshot = make_headshot(pixels, self._matting, self._settings, pieces.step)
            except HeadshotRejected as rejection:
                self._count(rejection.quality.get("reasons", ()))
                raise
        self._count(headshot.quality.reasons)
        for stage, seconds in {"decode": decoded - started, **headshot.seconds}.items():
            self._sink.record(metrics.HEADSHOT_STAGE_SECONDS, seconds, stage=stage)
        spent = self._clock.monotonic() - started
        return HeadshotResult(
            preview=headshot.preview,
            print=headshot.print,
            quality=headshot.quality.describe(),
            engine_seconds=spent,
            gpu_seconds=spent if self._settings.cuda else 0.0,  # it is held all the time, the network runs for a part
        )

    def _count(self, reasons: Iterable[str]) -> None:
        for reason in reasons:
            self._sink.record(metrics.HEADSHOT_REASONS, reason=reason)


_MODEL = STAGES.index("matting")


class _Pieces:
    """Cuts the work into pieces, decoding and then each stage: the engine's health is told by how long one takes, and
    by whether the network's fails."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._open = ExitStack()

    def __enter__(self) -> _Pieces:
        self._turn.check_in()
        self._open.enter_context(self._turn.piece("decode", of_model=False))
        return self

    def __exit__(self, *error: object) -> None:
        self._open.__exit__(*error)  # type: ignore[arg-type]

    def step(self, done: int, of: int) -> None:
        """Between two stages; raises what ends a request that is not wanted any more."""
        self._open.close()
        self._turn.tell(Step(done, of))
        self._turn.check_in()
        if done < of:
            self._open.enter_context(self._turn.piece(STAGES[done], of_model=done == _MODEL))
