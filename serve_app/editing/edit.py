"""The edit around an engine: `prepare` before it, `finish` after it.

A job may wait for its engine for minutes. In that time it holds the original's bytes, the crops and packed bits of the
mask inside the regions' targets; no frame, no full-size mask. The price is a second decode, which a job that does not
wait need not pay: its caller asks for the frame, and gives it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from serve_app.clock import Laps
from serve_app.editing import mask as masks
from serve_app.editing.composite import Patch, composite, patches
from serve_app.editing.region import Region, plan
from serve_app.engines.protocol import Crop, Image, Mask
from serve_app.errors import EngineFailed
from serve_app.photos.codec import Photo, decode_mask, encode_image, encode_preview, open_photo, shrink
from serve_app.photos.mask_convention import MaskConvention
from serve_app.settings import Settings
from serve_app.settings_sections import Quality

# Edits run side by side in threads of their own; OpenCV's extra threads would only spin beside them: 15 ms CPU a photo.
cv2.setNumThreads(1)


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Everything `finish` needs. `crops[i]` belongs to `regions[i]`; `patches[i]` are the pieces of
    the photo it will change. `seconds` has the stages "decode" and "plan". `frame` is the whole photo, decoded, or
    None; `finish` paints on it."""

    original: bytes
    width: int
    height: int
    regions: tuple[Region, ...]
    crops: tuple[Crop, ...]
    patches: tuple[tuple[Patch, ...], ...]
    radius_px: int
    seconds: dict[str, float]
    frame: Photo | None = None

    def without_frame(self) -> Prepared:
        """The same to be kept while it waits: a few megabytes instead of three bytes per pixel."""
        return replace(self, frame=None)


@dataclass(frozen=True, slots=True)
class Edited:
    """The photo in the format asked for, a JPEG preview if one was, and the photo's size in pixels. `seconds` has the
    stages "decode", "composite" and "encode"."""

    photo: bytes
    preview: bytes | None
    width: int
    height: int
    seconds: dict[str, float]


def prepare(
    original: bytes,
    mask: bytes,
    quality: Quality,
    settings: Settings,
    *,
    keep_frame: bool = False,
    mask_convention: MaskConvention = "white",
    names: tuple[str, str] = ("original.jpg", "mask_auto.png"),
    laps: Laps | None = None,
) -> Prepared:
    """Cut the crops an engine is to work on out of a photo file, where the mask file says.

    With `keep_frame` the decoded photo stays, for a job that will not wait, and `finish` needs no second decode; the
    result is the same. `mask_convention` is as in `codec.decode_mask`. `names` are what the two files are called
    in errors; `laps` hears of the stages, also of one that fails.
    Raises PhotoUnreadable, PhotoTooLarge, MaskUnreadable and MaskEmpty.
    """
    laps = Laps() if laps is None else laps
    with laps.time("decode"):
        photo = open_photo(original, settings.photos, names[0])
        grey = decode_mask(mask, settings.photos, names[1], convention=mask_convention)
    with laps.time("plan"):
        core = masks.fit(masks.binarize(grey), photo.width, photo.height, photo.orientation)
        radius = masks.dilation_radius(photo.width, photo.height, settings.editing.mask_dilation)
        regions = tuple(plan(core, quality, settings.editing.context_px, radius))
    with laps.time("decode"):
        frame = photo.decode()
    with laps.time("plan"):
        crops = tuple(Crop(_crop_image(frame.pixels, region), _crop_mask(core, region, radius)) for region in regions)
        pieces = tuple(tuple(patches(region, core, radius)) for region in regions)
    kept = frame if keep_frame else None
    return Prepared(original, photo.width, photo.height, regions, crops, pieces, radius, laps.seconds, kept)


def finish(
    prepared: Prepared,
    images: Sequence[Image],
    settings: Settings,
    *,
    output_format: str = "jpeg",
    with_preview: bool = True,
    laps: Laps | None = None,
) -> Edited:
    """Put an engine's images into the photo and encode it; a kept frame is used up, so this is done once.

    `output_format` is one of `codec.CONTENT_TYPES`; `laps` hears of the stages. Raises EngineFailed when the images
    are not what was asked for.
    """
    laps = Laps() if laps is None else laps
    _check(prepared, images)
    with laps.time("decode"):
        frame = _decode(prepared, settings)
    with laps.time("composite"):
        _paint(frame.pixels, prepared, images)
    with laps.time("encode"):
        limits = settings.photos
        icc, exif = frame.icc_profile, frame.exif
        photo = encode_image(frame.pixels, icc, exif, limits.jpeg_quality, output_format, frame.subsampling)
        preview = None
        if with_preview:
            preview = encode_preview(frame.pixels, icc, limits.preview_long_edge, limits.preview_quality)
    return Edited(photo, preview, prepared.width, prepared.height, laps.seconds)


def composite_frame(prepared: Prepared, images: Sequence[Image], settings: Settings) -> Image:
    """The edited photo as `finish` encodes it, before encoding: RGB uint8 [H, W, 3]. Raises EngineFailed."""
    _check(prepared, images)
    frame = _decode(prepared, settings)
    _paint(frame.pixels, prepared, images)
    return frame.pixels


# -- before the engine -----------------------------------------------------------------------------------------------


def _density(region: Region) -> float:
    """Model pixels per photo pixel, on the side where there are more."""
    left, top, right, bottom = region.box
    return max(region.size[0] / (right - left), region.size[1] / (bottom - top))


def _crop_image(frame: Image, region: Region) -> Image:
    pixels = frame[_slices(region.box)]
    if pixels.shape[1::-1] == region.size:
        return pixels.copy()  # a view would keep the whole frame in memory
    return shrink(pixels, region.size)


def _crop_mask(core: masks.Bool, region: Region, radius_px: int) -> Mask:
    """The dilated mask in a region's box at model size; dilated there, where it is cheap, and never by less."""
    small = masks.resize(core[_slices(region.box)].view(np.uint8), *region.size)
    radius = int(np.ceil(radius_px * _density(region)))
    return masks.dilate(small, min(radius, sum(region.size)))


def _slices(box: tuple[int, int, int, int]) -> tuple[slice, slice]:
    left, top, right, bottom = box
    return slice(top, bottom), slice(left, right)


# -- after the engine ------------------------------------------------------------------------------------------------


def _check(prepared: Prepared, images: Sequence[Image]) -> None:
    if len(images) != len(prepared.regions):
        raise EngineFailed(f"The engine returned {len(images)} images for {len(prepared.regions)} crops")
    for image, region in zip(images, prepared.regions, strict=True):
        width, height = region.size
        if image.dtype != np.uint8 or image.shape != (height, width, 3):
            raise EngineFailed(
                f"The engine returned {image.dtype} {list(image.shape)} for a crop of uint8 {[height, width, 3]}"
            )


def _decode(prepared: Prepared, settings: Settings) -> Photo:
    return prepared.frame or open_photo(prepared.original, settings.photos).decode()


def _paint(pixels: Image, prepared: Prepared, images: Sequence[Image]) -> None:
    """Write the results into a whole photo, in place."""
    for region, image, pieces in zip(prepared.regions, images, prepared.patches, strict=True):
        for patch in pieces:
            window = pixels[_slices(patch.box)]
            window[:] = composite(window, region, image, patch, prepared.radius_px)
