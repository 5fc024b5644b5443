"""Putting the model's pixels back: a feather inside the dilation ring, and a blend that leaves all else as it was.

Everything works on windows of a region's target, so a thin leash costs what the leash covers, not its bounding box.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from serve_app.editing.mask import Bool, tiles
from serve_app.editing.region import Box, Region

Pixels = NDArray[np.uint8]


def alpha(core: Bool, radius_px: int) -> Pixels:
    """Opacity of the model's pixels for an undilated mask [H, W]: uint8 [H, W].

    255 on the mask, falling with the Euclidean distance to it, 0 beyond `radius_px`: that is, 0 exactly where
    `mask.dilate(core, radius_px)` is 0. Distances are exact (Felzenszwalb & Huttenlocher 2012, in OpenCV).
    """
    if radius_px == 0 or not core.any():
        return core.view(np.uint8) * np.uint8(255)
    distance = cv2.distanceTransform((~core).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(np.maximum(255.0 - distance * (255.0 / (radius_px + 1)), 0.0) * (distance <= radius_px + 1e-3), np.uint8)


def windows(region: Region, core: Bool, radius_px: int) -> Iterator[tuple[Box, Pixels]]:
    """Where a region changes the photo: disjoint boxes in photo pixels, each with its alpha uint8 [h, w].

    `core` is the undilated mask inside `region.target`, bool [H, W] of the target's size.
    """
    x, y = region.target[:2]
    for left, top, right, bottom in tiles(core, radius_px):
        near_x, near_y = max(0, left - radius_px), max(0, top - radius_px)
        near = core[near_y : bottom + radius_px, near_x : right + radius_px]
        opacity = alpha(np.ascontiguousarray(near), radius_px)[top - near_y : bottom - near_y, left - near_x : right - near_x]
        yield (x + left, y + top, x + right, y + bottom), opacity


def enlarge(model_image: Pixels, region: Region, window: Box) -> Pixels:
    """The model's pixels for one window of the photo: RGB uint8 [h, w, 3], bicubic.

    `model_image` RGB uint8 has `region.size`; a window outside `region.box` repeats the image's edge.
    """
    left, top, right, bottom = region.box
    if right - left < region.size[0] or bottom - top < region.size[1]:  # shrinking needs averages; such boxes are small
        model_image = np.asarray(cv2.resize(model_image, (right - left, bottom - top), interpolation=cv2.INTER_AREA), np.uint8)
    across, down = model_image.shape[1] / (right - left), model_image.shape[0] / (bottom - top)
    shift_x = (window[0] - left + 0.5) * across - 0.5  # pixel centres, not corners, lie on each other
    shift_y = (window[1] - top + 0.5) * down - 0.5
    to_model = np.array([[across, 0, shift_x], [0, down, shift_y]], np.float64)
    size = (window[2] - window[0], window[3] - window[1])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(model_image, to_model, size, flags=flags, borderMode=cv2.BORDER_REPLICATE), np.uint8)


def blend(pixels: Pixels, model_pixels: Pixels, opacity: Pixels) -> Pixels:
    """Mix two RGB images uint8 [h, w, 3] by alpha uint8 [h, w]: exactly the first at 0, exactly the second at 255."""
    share = opacity[..., None].astype(np.float32) * np.float32(1 / 255)
    below = pixels.astype(np.float32)
    return (below + (model_pixels - below) * share + np.float32(0.5)).astype(np.uint8)


def composite(pixels: Pixels, region: Region, model_image: Pixels, core: Bool, radius_px: int) -> None:
    """Write a region's result into a whole photo RGB uint8 [H, W, 3], in place; for callers that hold it as an array."""
    for (left, top, right, bottom), opacity in windows(region, core, radius_px):
        patch = pixels[top:bottom, left:right]
        patch[:] = blend(patch, enlarge(model_image, region, (left, top, right, bottom)), opacity)
