"""What a run does around its engine, per operation: `start` before it and `finish` after it, both in a codec thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from serve_app.clock import Laps
from serve_app.editing import edit
from serve_app.editing.fitting import fit_image, fit_size
from serve_app.engines.protocol import (
    EngineResult,
    FillRequest,
    HeadshotRequest,
    HeadshotResult,
    Image,
    ImageToImageRequest,
    Request,
    TextToImageRequest,
)
from serve_app.errors import EngineFailed
from serve_app.jobs.model import Job, Operation
from serve_app.photos.codec import decode_photo, encode_image
from serve_app.settings import Settings


@dataclass(frozen=True, slots=True)
class Inputs:
    """Files as they were sent; None where the operation has none."""

    original: bytes | None
    mask: bytes | None


@dataclass(frozen=True, slots=True)
class Output:
    """The files to store; of a headshot, what was found about the photo."""

    result: bytes
    preview: bytes | None
    preview_type: str = "image/jpeg"
    quality: Mapping[str, Any] | None = None


class Started(Protocol):
    """A job's work between `start` and `finish`."""

    @property
    def request(self) -> Request:
        """What the engine is asked for."""

    def without_frame(self) -> Started:
        """The same, in less memory, for a job that has to wait."""

    def finish(self, result: EngineResult, laps: Laps) -> Output:
        """Raises EngineFailed when the images are not what was asked for."""


def start(job: Job, inputs: Inputs, settings: Settings, laps: Laps, *, keep_frame: bool) -> Started:
    """`laps` hears of the stages, also of one that fails. Raises PhotoUnreadable, PhotoTooLarge,
    MaskUnreadable and MaskEmpty."""
    match job.operation:
        case Operation.INPAINT:
            assert inputs.original is not None and inputs.mask is not None  # noqa: PT018
            row = settings.qualities[job.parameters.quality]
            prepared = edit.prepare(
                inputs.original,
                inputs.mask,
                row,
                settings,
                keep_frame=keep_frame,
                mask_convention=job.parameters.mask_convention,
                laps=laps,
                **({} if job.session is not None else {"names": ("init_image", "mask_image")}),
            )
            return _Inpainting(job, prepared, settings)
        case Operation.GENERATE:
            return _Generating(job, settings, _common(job) | _size(job), TextToImageRequest)
        case Operation.TRANSFORM:
            assert inputs.original is not None
            return _start_transforming(job, inputs.original, settings, laps)
        case Operation.HEADSHOT:
            assert inputs.original is not None
            return _Headshooting(HeadshotRequest(**_common(job), photo=inputs.original))


@dataclass(frozen=True, slots=True, eq=False)
class _Inpainting:
    job: Job
    prepared: edit.Prepared
    settings: Settings

    @property
    def request(self) -> Request:
        return FillRequest(**_common(self.job), crops=self.prepared.crops)

    def without_frame(self) -> _Inpainting:
        return replace(self, prepared=self.prepared.without_frame())

    def finish(self, result: EngineResult, laps: Laps) -> Output:
        edited = edit.finish(
            self.prepared,
            result.images,
            self.settings,
            output_format=self.job.parameters.output_format,
            with_preview=self.job.files.preview is not None,
            laps=laps,
        )
        return Output(edited.photo, edited.preview)


@dataclass(frozen=True, slots=True, eq=False)
class _Generating:
    """Of nothing, or of an image: one picture as the engine gives it."""

    job: Job
    settings: Settings
    values: dict[str, Any]
    kind: type[Request]

    @property
    def request(self) -> Request:
        return self.kind(**self.values)

    def without_frame(self) -> _Generating:
        return self

    def finish(self, result: EngineResult, laps: Laps) -> Output:
        if len(result.images) != 1 or not _is_picture(result.images[0]):
            raise EngineFailed(f"The engine returned {len(result.images)} images where one RGB image was asked for.")
        limits = self.settings.photos
        with laps.time("encode"):
            data = encode_image(result.images[0], None, None, limits.jpeg_quality, self.job.parameters.output_format)
        return Output(data, None)


@dataclass(frozen=True, slots=True, eq=False)
class _Headshooting:
    """The engine has the whole photo, and decodes and encodes by itself: two frames at a time would be of no use."""

    request: Request

    def without_frame(self) -> _Headshooting:
        return self

    def finish(self, result: EngineResult, laps: Laps) -> Output:  # noqa: ARG002 – it has encoded already
        if not isinstance(result, HeadshotResult):
            raise EngineFailed("The engine returned images where a headshot was asked for.")
        return Output(result.print, result.preview, preview_type="image/png", quality=result.quality)


def _start_transforming(job: Job, original: bytes, settings: Settings, laps: Laps) -> _Generating:
    with laps.time("decode"):
        photo = decode_photo(original, settings.photos, "init_image")
    height, width = photo.pixels.shape[:2]
    if job.parameters.width is not None and job.parameters.height is not None:
        width, height = job.parameters.width, job.parameters.height
    else:
        width, height = fit_size(width, height, settings.qualities[job.parameters.quality].max_megapixels)
    with laps.time("plan"):
        values = {"image": fit_image(photo.pixels, width, height), "strength": job.parameters.strength}
    return _Generating(job, settings, _common(job) | values, ImageToImageRequest)


def _common(job: Job) -> dict[str, Any]:
    parameters = job.parameters
    return {
        "request_id": f"{job.id}/{job.attempts}",
        "prompt": parameters.prompt,
        "negative_prompt": parameters.negative_prompt,
        "true_cfg": parameters.true_cfg,
        "steps": parameters.steps,
        "guidance": parameters.guidance_scale,
        "seed": job.seed,
        "priority": int(job.priority),
        "submitted_at": job.created_at,
        "deadline_at": job.deadline_at,
    }


def _size(job: Job) -> dict[str, Any]:
    assert job.parameters.width is not None and job.parameters.height is not None  # noqa: PT018
    return {"width": job.parameters.width, "height": job.parameters.height}


def _is_picture(image: Image) -> bool:
    return image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
