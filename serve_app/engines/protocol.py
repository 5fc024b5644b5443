"""What every engine takes and what it says back.

An engine is a plain object: it may be held by a unit test, by a script, or by a Ray shell. It runs its model in a
thread of its own, accepts requests from any thread and reports through `emit`, which must return quickly; it is called
from the engine's thread, and from `submit` and `close` for requests that are refused or left. For every submitted
request it emits any number of `Queued`, `Step` and `Decoding`, then exactly one of `Done`, `Failed`, `Cancelled`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""[H, W, 3] uint8, RGB."""
Mask = NDArray[np.uint8]
"""[H, W] uint8, 255 = edit, 0 = keep."""


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """One region at model size: H and W are multiples of 16, H × W at most one megapixel (2²⁰)."""

    image: Image
    mask: Mask


class Task(StrEnum):
    FILL = "fill"
    TEXT_TO_IMAGE = "text-to-image"
    IMAGE_TO_IMAGE = "image-to-image"
    HEADSHOT = "headshot"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Request:
    """What every request says. `request_id` is unique to one run of a job. `seed` in [0, 2⁶³); a smaller `priority` is
    more urgent; times are seconds of the Unix clock. `traceparent` is the W3C trace context of who waits for it.

    With `true_cfg` above 1 and a `negative_prompt` every step asks the model twice, with and against the prompt
    (Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022); `guidance` is the scale distilled into the model.
    """

    task: ClassVar[Task]

    request_id: str
    prompt: str
    steps: int
    guidance: float
    seed: int
    negative_prompt: str | None = None
    true_cfg: float = 1.0
    priority: int = 1
    submitted_at: float = 0.0
    deadline_at: float | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FillRequest(Request):
    task: ClassVar[Task] = Task.FILL

    crops: tuple[Crop, ...]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TextToImageRequest(Request):
    """Sides in pixels: multiples of 16, at most one megapixel (2²⁰) together."""

    task: ClassVar[Task] = Task.TEXT_TO_IMAGE

    width: int
    height: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ImageToImageRequest(Request):
    """`strength` in (0, 1]: how much of the image is given up; that share of the steps is run. Sides as for text."""

    task: ClassVar[Task] = Task.IMAGE_TO_IMAGE

    image: Image
    strength: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class HeadshotRequest(Request):
    """`photo` is the file as it was sent; prompt, steps, guidance and seed have no effect."""

    task: ClassVar[Task] = Task.HEADSHOT

    photo: bytes


@dataclass(frozen=True, slots=True, eq=False)
class EngineResult:
    """For a fill `images[i]` has the size of `crops[i]`, and pixels outside the mask are not promised to be kept; the
    other tasks give one image.

    `engine_seconds` is the time the model worked on this request, `gpu_seconds` the time it held an accelerator (0 on
    a CPU).
    """

    images: tuple[Image, ...]
    engine_seconds: float
    gpu_seconds: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class HeadshotResult(EngineResult):
    """No images but two PNG files, grey with alpha, and what was found about the photo: {pass, metrics, reasons}."""

    images: tuple[Image, ...] = ()
    preview: bytes
    print: bytes
    quality: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Queued:
    """`position` requests go first. `eta_s`, here and below: seconds until the result, as far as that was measured."""

    position: int
    eta_s: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """`step` of `steps` are finished; the first says 0: the request's turn has come. One-shot models count crops."""

    step: int
    steps: int
    eta_s: float | None = None


@dataclass(frozen=True, slots=True)
class Decoding:
    pass


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    result: EngineResult


@dataclass(frozen=True, slots=True)
class Failed:
    """`retryable` says whether the same request may succeed another time; `details` are for JSON."""

    code: str
    message: str
    retryable: bool
    details: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    pass


def find_job(request: Request) -> str:
    """The id of the job that a request is a run of, for the log."""
    return request.request_id.partition("/")[0]


Event = Queued | Step | Decoding | Done | Failed | Cancelled
Emit = Callable[[Event], None]


class Engine(Protocol):
    @property
    def name(self) -> str: ...

    def submit(self, request: Request, emit: Emit) -> None:
        """Accept a request and return at once; never raises for the request's content, which ends in `Failed`."""

    def cancel(self, request_id: str) -> None:
        """Ask for the end of a request: in `Cancelled`, or as it ended if it was faster. Unknown ids are ignored."""

    def busy_seconds(self) -> float:
        """How long the model has been inside its current uninterruptible piece of work; 0 when idle. Tells a hang."""

    def failures_in_a_row(self) -> int:
        """Calls of the model that failed since the last one that did not. Tells an accelerator that has to be left."""

    def close(self) -> None:
        """Stop the thread; requests still held end in `Cancelled`."""


class EngineClient(Protocol):
    """An engine as its users see it, in this process or behind a Ray handle."""

    def run(self, request: Request) -> AsyncGenerator[Event]:
        """The request's events; leaving the iteration early cancels the request.

        Raises EngineUnavailable when no engine took it, EngineFailed when the engine died with it.
        """
