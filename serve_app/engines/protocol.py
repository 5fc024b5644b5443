"""What every engine takes and what it says back.

An engine is a plain object: it may be held by a unit test, by a script, or by a Ray shell. It runs its model in a
thread of its own, accepts requests from any thread and reports through `emit`, which it calls from its own thread and
which must return quickly. For every submitted request it emits any number of `Queued`, `Step` and `Decoding`, then
exactly one of `Done`, `Failed`, `Cancelled`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Protocol

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


@dataclass(frozen=True, slots=True, eq=False)
class FillRequest:
    """`request_id` is unique to one run of a job. `seed` in [0, 2⁶³); a smaller `priority` is more urgent; times are
    seconds of the Unix clock."""

    request_id: str
    crops: tuple[Crop, ...]
    prompt: str
    steps: int
    guidance: float
    seed: int
    priority: int = 1
    submitted_at: float = 0.0
    deadline_at: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class FillResult:
    """`images[i]` has the size of `crops[i]`; pixels outside the mask are not promised to be kept.

    `engine_seconds` is the time the model worked on this request, `gpu_seconds` the time it held an accelerator (0 on
    a CPU).
    """

    images: tuple[Image, ...]
    engine_seconds: float
    gpu_seconds: float


@dataclass(frozen=True, slots=True)
class Queued:
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
    result: FillResult


@dataclass(frozen=True, slots=True)
class Failed:
    """`retryable` says whether the same request may succeed another time."""

    code: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Cancelled:
    pass


Event = Queued | Step | Decoding | Done | Failed | Cancelled
Emit = Callable[[Event], None]


class Engine(Protocol):
    @property
    def name(self) -> str: ...

    def submit(self, request: FillRequest, emit: Emit) -> None:
        """Accept a request and return at once; never raises for the request's content, which ends in `Failed`."""

    def cancel(self, request_id: str) -> None:
        """Ask for the end of a request: in `Cancelled`, or as it ended if it was faster. Unknown ids are ignored."""

    def busy_seconds(self) -> float:
        """How long the model has been inside its current uninterruptible piece of work; 0 when idle. Tells a hang."""

    def close(self) -> None:
        """Stop the thread; requests still held end in `Cancelled`."""


class EngineClient(Protocol):
    """An engine as its users see it, in this process or behind a Ray handle."""

    def fill(self, request: FillRequest) -> AsyncGenerator[Event]:
        """The request's events; leaving the iteration early cancels the request.

        Raises EngineUnavailable when no engine took it, EngineFailed when the engine died with it.
        """
