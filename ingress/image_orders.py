"""Image requests as orders of jobs, one for each image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from ingress.auth import VerifiedCaller
from ingress.callers import name_owner
from ingress.image_schemas import EditRequest, GenerationRequest, ImageRequest
from ingress.schemas import PRIORITIES
from serve_app.errors import InvalidRequest
from serve_app.jobs.catalog import choose
from serve_app.jobs.model import Operation
from serve_app.jobs.submission import LEAST_PX, MOST_PIXELS, SIDE_PX, JobOrder
from serve_app.photos.media_types import find_media_type
from serve_app.settings import Settings

SEEDS = 2**63

QUALITIES: dict[str, str | None] = {"standard": None, "hd": "high", "xhigh": "high", "max": "high"}
"""Names of the reference that are none of ours; a row of the quality table that is called so comes first."""

Kind = Literal["image_edit", "image_generation"]
"""How the events of a request are called."""


@dataclass(frozen=True, slots=True)
class ImageOrder:
    """A request for images, and the jobs that make them."""

    caller: VerifiedCaller
    kind: Kind
    wish: ImageRequest
    jobs: tuple[JobOrder, ...]


def order_edits(
    caller: VerifiedCaller, wish: EditRequest, image: bytes, mask: bytes | None, settings: Settings
) -> ImageOrder:
    """With a mask an inpainting, whose size is the image's; without one a transformation. Raises InvalidRequest."""
    for name, data in (("image", image), ("mask", mask)):
        if data is not None and find_media_type(data) is None:
            raise InvalidRequest(f"{name} is not an image this service reads; send a JPEG, PNG, WebP or GIF.", name)
    if mask is not None and wish.strength is not None:
        raise InvalidRequest("With a mask there is no strength: what it marks is made anew altogether.", "strength")
    values: dict[str, Any] = {"init_image": image, "mask_image": mask, "mask_convention": "transparent"}
    if mask is None:
        values = {"init_image": image, "strength": wish.strength} | _read_size(wish.size)
    operation = Operation.TRANSFORM if mask is None else Operation.INPAINT
    return ImageOrder(caller, "image_edit", wish, _make_orders(caller, operation, wish, values, settings))


def order_generations(caller: VerifiedCaller, wish: GenerationRequest, settings: Settings) -> ImageOrder:
    """Raises InvalidRequest."""
    jobs = _make_orders(caller, Operation.GENERATE, wish, _read_size(wish.size), settings)
    return ImageOrder(caller, "image_generation", wish, jobs)


def _make_orders(
    caller: VerifiedCaller, operation: Operation, wish: ImageRequest, values: dict[str, Any], settings: Settings
) -> tuple[JobOrder, ...]:
    if wish.stream and wish.response_format == "url":
        raise InvalidRequest(
            "A stream brings the images themselves; leave response_format url or stream out.", "stream"
        )
    first = JobOrder(
        owner=name_owner(caller),
        operation=operation,
        model=wish.model,
        quality=_choose_quality(wish.quality, settings),
        prompt=wish.prompt,
        negative_prompt=wish.negative_prompt,
        true_cfg=1.0 if wish.true_cfg is None else wish.true_cfg,
        steps=wish.steps,
        guidance_scale=wish.guidance_scale,
        seed=wish.seed,
        output_format=wish.output_format or "png",
        priority=PRIORITIES[wish.priority or "normal"],
        # Nobody waits for longer, and a job whose ingress has died must not run on for an hour.
        deadline_s=settings.jobs.push_wait_s,
        **values,
    )
    _require_model(first, settings)
    return tuple(
        replace(first, seed=None if wish.seed is None else (wish.seed + number) % SEEDS)
        for number in range(wish.n or 1)
    )


def _choose_quality(name: str | None, settings: Settings) -> str | None:
    return name if name is None or name in settings.qualities else QUALITIES.get(name, name)


def _require_model(order: JobOrder, settings: Settings) -> None:
    """In the words of these routes, which have no field for the operation."""
    try:
        choose(settings, order.operation, order.quality, order.model)
    except InvalidRequest as error:
        if error.field != "operation":
            raise
        if order.operation is Operation.TRANSFORM:
            raise InvalidRequest(f"Send a mask; without one this is {error.message}", "mask") from None
        raise InvalidRequest(error.message, "model") from None


def _read_size(size: str | None) -> dict[str, int]:
    """Width and height in pixels; nothing for auto."""
    if size is None or size == "auto":
        return {}
    width, height = (int(side) for side in size.split("x"))
    if min(width, height) < LEAST_PX or width % SIDE_PX or height % SIDE_PX or width * height > MOST_PIXELS:
        raise InvalidRequest(
            f"size is {size}; accepted are auto and WIDTHxHEIGHT with sides that are multiples of {SIDE_PX} from "
            f"{LEAST_PX}, at most {MOST_PIXELS} pixels together, such as 1024x1024, 1216x832 and 832x1216.",
            "size",
        )
    return {"width": width, "height": height}
