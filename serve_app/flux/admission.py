"""What a FLUX engine takes, and the samples a request is made of."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.engines.crops import MAX_PIXELS, check_crop
from serve_app.engines.protocol import FillRequest, Image, ImageToImageRequest, Mask, Request, Task, TextToImageRequest
from serve_app.errors import EngineRejected, RequestRejected
from serve_app.flux.denoise import TOKEN_PX, Grid, count_steps, grid_of
from serve_app.flux.spec import ModelSpec, check_task

MAX_STEPS = 200
SEEDS = 2**63


@dataclass(frozen=True, slots=True, eq=False)
class SampleSpec:
    """One image to make. `image` and `mask` as the task needs them; `steps` are those of a full schedule, of which
    `strength` leaves `steps_to_run`."""

    task: Task
    width: int
    height: int
    image: Image | None
    mask: Mask | None
    strength: float
    steps: int
    guidance: float
    true_cfg: float
    seed: int

    @property
    def grid(self) -> Grid:
        return grid_of(self.width, self.height)

    @property
    def steps_to_run(self) -> int:
        return count_steps(self.steps, self.strength)

    @property
    def rows(self) -> int:
        """Rows in a call of the transformer: true classifier-free guidance needs two."""
        return 2 if self.true_cfg > 1 else 1


def make_samples(request: Request, spec: ModelSpec) -> tuple[SampleSpec, ...]:
    """One sample per image. The first has the request's seed, the others each the next.

    Raises EngineRejected for what this model cannot do, and for anything out of its range; RequestRejected for numbers
    that are fine alone and leave nothing to do together.
    """
    check_task(spec, request.task)
    _check_numbers(request)
    match request:
        case FillRequest(crops=crops):
            if not crops:
                raise EngineRejected("the request has no crops; send at least one")
            for crop in crops:
                check_crop(crop)
            return tuple(_make(request, crop.image, crop.mask, index) for index, crop in enumerate(crops))
        case TextToImageRequest(width=width, height=height):
            return (_make_sized(request, width, height),)
        case ImageToImageRequest(image=image, strength=strength):
            if image.ndim != 3 or image.shape[2] != 3 or str(image.dtype) != "uint8":
                raise EngineRejected(f"the image is {image.dtype} {image.shape}; it must be uint8 [H, W, 3]")
            if not 0 < strength <= 1:
                raise EngineRejected(f"strength is {strength}; above 0 up to 1 is accepted")
            sample = _make_sized(request, image.shape[1], image.shape[0], image, strength)
            if sample.steps_to_run < 1:
                raise RequestRejected(f"strength {strength} leaves none of {request.steps} steps; raise either")
            return (sample,)
        case _:
            raise EngineRejected(f"a {type(request).__name__} is not known here")


def _check_numbers(request: Request) -> None:
    if not 1 <= request.steps <= MAX_STEPS:
        raise EngineRejected(f"steps is {request.steps}; 1 to {MAX_STEPS} are accepted")
    if not 0 <= request.guidance <= 100:
        raise EngineRejected(f"guidance is {request.guidance}; 0 to 100 are accepted")
    if not 0 <= request.true_cfg <= 100:
        raise EngineRejected(f"true_cfg is {request.true_cfg}; 0 to 100 are accepted")
    if not 0 <= request.seed < SEEDS:
        raise EngineRejected(f"seed is {request.seed}; 0 to 2^63 - 1 are accepted")


def _make(request: Request, image: Image, mask: Mask, index: int) -> SampleSpec:
    height, width = mask.shape
    return _make_sized(request, width, height, image, 1.0, mask, index)


def _make_sized(
    request: Request,
    width: int,
    height: int,
    image: Image | None = None,
    strength: float = 1.0,
    mask: Mask | None = None,
    index: int = 0,
) -> SampleSpec:
    if width < TOKEN_PX or height < TOKEN_PX or width % TOKEN_PX or height % TOKEN_PX:
        raise EngineRejected(f"{width} × {height} pixels: both sides must be multiples of {TOKEN_PX}")
    if width * height > MAX_PIXELS:
        raise EngineRejected(f"{width} × {height} pixels are more than the {MAX_PIXELS} accepted")
    return SampleSpec(
        task=request.task,
        width=width,
        height=height,
        image=image,
        mask=mask,
        strength=strength,
        steps=request.steps,
        guidance=request.guidance,
        true_cfg=request.true_cfg if request.negative_prompt is not None else 1.0,
        seed=(request.seed + index) % SEEDS,
    )
