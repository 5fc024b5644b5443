"""Putting the model's pixels back: a feather inside the dilation ring, and a blend that leaves all else as it was.

Everything works on windows of a region's target, so a thin leash costs what the leash covers, not its bounding box.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from serve_app.editing.mask import Bool, tiles
from serve_app.editing.region import Box, Region

Pixels = NDArray[np.uint8]

_CHAMFER_SHORT = 0.982  # a chamfer distance is at least this share of the Euclidean one (steps of 1.4 and 2.1969)
_CHAMFER_EXACT = 6  # pixels; up to here no chamfer distance falls to or below a radius the Euclidean one exceeds


def alpha(core: Bool, radius_px: int) -> Pixels:
    """Opacity of the model's pixels for an undilated mask [H, W]: uint8 [H, W].

    255 on the mask, falling with the distance to it, 0 wherever `mask.dilate(core, radius_px)` is 0. Distances are
    Borgefors' 5 × 5 chamfer distances (1986), as fast as two passes over the window.
    """
    if radius_px == 0 or not core.any():
        return core.view(np.uint8) * np.uint8(255)
    distance = cv2.distanceTransform((~core).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    limit = max(min(radius_px, _CHAMFER_EXACT), radius_px * _CHAMFER_SHORT)
    return np.asarray(np.maximum(255.0 - distance * (255.0 / (radius_px + 1)), 0.0) * (distance <= limit), np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """One piece of a region: `box` in photo pixels; the undilated mask in and around it, as the bits of `shape` rows by
    columns; `inset` is the box's offset (down, across) in it."""

    box: Box
    bits: NDArray[np.uint8]
    shape: tuple[int, int]
    inset: tuple[int, int]

    def alpha(self, radius_px: int) -> Pixels:
        """Opacity inside the box: uint8 [h, w]."""
        core = np.unpackbits(self.bits, count=self.shape[0] * self.shape[1]).reshape(self.shape).view(np.bool_)
        (down, across), (left, top, right, bottom) = self.inset, self.box
        return alpha(core, radius_px)[down : down + bottom - top, across : across + right - left]


def patches(region: Region, core: Bool, radius_px: int) -> list[Patch]:
    """Where a region will change the photo, cut up so that most of the photo is left alone; disjoint.

    `core` is the undilated mask bool [H, W] at photo size; only the part the region owns counts.
    """
    x, y, right, bottom = region.target
    owned = np.ascontiguousarray(core[y:bottom, x:right])
    found = []
    for box in tiles(owned, radius_px):
        near = (max(0, box[0] - radius_px), max(0, box[1] - radius_px))
        around = owned[near[1] : box[3] + radius_px, near[0] : box[2] + radius_px]
        moved = (x + box[0], y + box[1], x + box[2], y + box[3])
        found.append(Patch(moved, np.packbits(around), around.shape, (box[1] - near[1], box[0] - near[0])))
    return found


def enlarge(model_image: Pixels, region: Region, window: Box) -> Pixels:
    """The model's pixels for one window of the photo: RGB uint8 [h, w, 3], bicubic.

    `model_image` RGB uint8 has `region.size`; a window outside `region.box` repeats the image's edge.
    """
    left, top, right, bottom = region.box
    if right - left < region.size[0] or bottom - top < region.size[1]:  # shrinking needs averages; such boxes are small
        model_image = np.asarray(
            cv2.resize(model_image, (right - left, bottom - top), interpolation=cv2.INTER_AREA), np.uint8
        )
    across, down = model_image.shape[1] / (right - left), model_image.shape[0] / (bottom - top)
    shift_x = (window[0] - left + 0.5) * across - 0.5  # pixel centres, not corners, lie on each other
    shift_y = (window[1] - top + 0.5) * down - 0.5
    to_model = np.array([[across, 0, shift_x], [0, down, shift_y]], np.float64)
    size = (window[2] - window[0], window[3] - window[1])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(model_image, to_model, size, flags=flags, borderMode=cv2.BORDER_REPLICATE), np.uint8
    )


def blend(pixels: Pixels, model_pixels: Pixels, opacity: Pixels) -> Pixels:
    """Mix two RGB images uint8 [h, w, 3] by alpha uint8 [h, w]: exactly the first at 0, exactly the second at 255."""
    share = opacity[..., None].astype(np.float32) * np.float32(1 / 255)
    below = pixels.astype(np.float32)
    return (below + (model_pixels - below) * share + np.float32(0.5)).astype(np.uint8)


def composite(pixels: Pixels, region: Region, model_image: Pixels, patch: Patch, radius_px: int) -> Pixels:
    """The photo inside a patch's box, RGB uint8 [h, w, 3], with the region's result blended in; a new array."""
    return blend(pixels, enlarge(model_image, region, patch.box), patch.alpha(radius_px))
