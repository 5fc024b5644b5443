"""The embedded engine: one inpainting model on the CPU, crop by crop."""

from __future__ import annotations

from serve_app.clock import Clock
from serve_app.engines.crops import check_crop, check_output
from serve_app.engines.migan import Inpaint, load_migan
from serve_app.engines.protocol import Crop, EngineResult, FillRequest, Image, Step, Task
from serve_app.engines.serial import SerialEngine, Turn
from serve_app.engines.trace import Trace
from serve_app.errors import EngineRejected

__all__ = ["DraftEngine", "Inpaint", "load_migan"]


class DraftEngine(SerialEngine):
    """An `engines.protocol.Engine` around a one-shot model; prompt, steps, guidance and seed have no effect on it."""

    def __init__(self, inpaint: Inpaint, *, clock: Clock | None = None, trace: Trace | None = None) -> None:
        self._inpaint = inpaint
        super().__init__("draft", self._fill, clock=clock, trace=trace)

    def _fill(self, turn: Turn) -> EngineResult:
        if not isinstance(turn.request, FillRequest):
            raise EngineRejected(f"the draft engine does not do {turn.request.task}; it does {Task.FILL}")
        crops = turn.request.crops
        for crop in crops:
            check_crop(crop)
        if not crops:
            raise EngineRejected("the request has no crops; send at least one")
        turn.tell(Step(0, len(crops)))
        images: list[Image] = []
        spent = 0.0
        for crop in crops:
            turn.check_in()
            image, seconds = self._fill_crop(turn, crop)
            images.append(image)
            spent += seconds
            done = len(images)
            turn.tell(Step(done, len(crops), eta_s=spent / done * (len(crops) - done)))
        return EngineResult(images=tuple(images), engine_seconds=spent, gpu_seconds=0.0)

    def _fill_crop(self, turn: Turn, crop: Crop) -> tuple[Image, float]:
        started = self._clock.monotonic()
        with turn.piece("fill"):
            image = self._inpaint(crop.image, crop.mask)
        check_output(crop, image)
        return image, self._clock.monotonic() - started
