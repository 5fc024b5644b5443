"""What is to be edited: from a grey mask file to a binary mask at the photo's size.

Masks here are uint8 [H, W], nonzero = edit, unless said otherwise.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from serve_app.errors import MaskEmpty, MaskUnreadable

Bool = NDArray[np.bool_]
Grey = NDArray[np.uint8]

_ASPECT_TOLERANCE = 0.05  # a mask made at a model's size (multiples of 8 or 16) is off by a few per cent
_CELL = 32  # photo pixels; small enough to skip most of the photo around a thin leash, large enough to cost few calls


def binarize(grey: Grey, threshold: int = 127) -> Bool:
    """True where grey uint8 [H, W] is above the threshold. Raises MaskEmpty when that is nowhere."""
    mask = grey > threshold
    if not mask.any():
        raise MaskEmpty(
            f"The mask has no pixel brighter than {threshold} of 255, so there is nothing to remove; paint it white."
        )
    return mask


def fit(mask: Bool, width: int, height: int, orientation: int = 1) -> Bool:
    """Bring a mask [h, w] to the upright photo's size; the one place where masks are resized.

    A mask is taken to lie over the photo as it is seen. The exception that can be told: where the photo's EXIF
    `orientation` swaps its sides (5 to 8) and the mask has the stored sides' proportions instead of the seen ones, it
    was made for the stored pixels and is turned with them. (A square photo, or an orientation that keeps the sides,
    leaves the two cases alike; the seen photo is assumed.) When shrinking, a photo pixel is edited if any of its mask
    pixels is: a thin leash must not vanish. Raises MaskUnreadable when the proportions fit neither way.
    """
    if orientation >= 5 and not _same_aspect(mask.shape, (height, width)) and _same_aspect(mask.shape, (width, height)):
        mask = turn(mask, orientation)
    if mask.shape == (height, width):
        return mask
    if not _same_aspect(mask.shape, (height, width)):
        raise MaskUnreadable(
            f"The mask is {mask.shape[1]} × {mask.shape[0]} pixels but the photo is {width} × {height}; "
            "send a mask of the photo's size, or at least of its proportions."
        )
    return resize(mask.view(np.uint8), width, height) > 0


def turn(mask: Bool, orientation: int) -> Bool:
    """Turn stored pixels [H, W] upright by an EXIF orientation 1..8 (Exif 2.32, tag 0x0112)."""
    turned = mask.T if orientation >= 5 else mask
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(turned[::rows, ::columns])


def resize(mask: Grey, width: int, height: int) -> Grey:
    """Resize uint8 [H, W] to 0 / 255: any coverage counts where it shrinks, the nearest pixel where it grows."""
    solid = mask
    if height < solid.shape[0]:
        solid = _cover(solid, height)
    if width < solid.shape[1]:
        solid = _cover(np.ascontiguousarray(solid.T), width).T
    solid = _solid(solid)
    if solid.shape != (height, width):
        solid = np.asarray(cv2.resize(solid, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    return solid


def dilation_radius(width: int, height: int, share: float) -> int:
    """How far a mask is grown, in whole photo pixels: `share` of the long edge."""
    return round(share * max(width, height))


def dilate(mask: Bool | Grey, radius_px: int) -> Grey:
    """Grow a mask [H, W] by every pixel at most `radius_px` away, centre to centre; returns uint8 [H, W], 255 = edit.

    That is a disc as the structuring element, by exact distances (Felzenszwalb and Huttenlocher 2012, in OpenCV), whose
    time does not depend on the radius. Works only on the cells of a grid near the mask: a leash covers a few per cent
    of its bounding box.
    """
    solid = _solid(mask)
    if radius_px == 0:
        return solid
    grown = solid.copy()
    reach = radius_px + 0.25 / radius_px  # the next distance on the grid is half an inverse radius further
    for left, top, right, bottom in tiles(solid, radius_px):
        x, y = max(0, left - radius_px), max(0, top - radius_px)
        window = solid[y : bottom + radius_px, x : right + radius_px]
        if window.any():  # without any mask to measure from, OpenCV's distances mean nothing
            distance = cv2.distanceTransform(~window, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            near = distance[top - y : bottom - y, left - x : right - x] <= reach
            grown[top:bottom, left:right] = _solid(near)
    return grown


def tiles(mask: Bool | Grey, margin_px: int = 0) -> list[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) that hold every pixel within `margin_px` of the mask [H, W], and little else.

    They are disjoint and lie inside the array: runs of cells of a grid, row by row.
    """
    height, width = mask.shape
    cell = max(_CELL, margin_px)
    grid = occupied(mask, cell)
    if margin_px:
        grid = np.asarray(cv2.dilate(grid, np.ones((3, 3), np.uint8)), np.uint8)
    boxes = []
    for row, cells in enumerate(grid):
        steps = np.diff(cells.astype(np.int8), prepend=0, append=0)
        for first, last in zip(np.flatnonzero(steps > 0), np.flatnonzero(steps < 0), strict=True):
            right, bottom = min(width, int(last) * cell), min(height, (row + 1) * cell)
            boxes.append((int(first) * cell, row * cell, right, bottom))
    return boxes


def occupied(mask: Bool | Grey, cell_px: int) -> Grey:
    """Which cells of a grid hold any nonzero pixel: uint8 [⌈H / cell⌉, ⌈W / cell⌉], 0 or 1."""
    cells = _any_of(mask.view(np.uint8), cell_px)
    return (_any_of(np.ascontiguousarray(cells.T), cell_px).T > 0).astype(np.uint8, order="C")


def _any_of(mask: Grey, cell_px: int) -> Grey:
    """The maximum of every `cell_px` rows; [H, W] → [⌈H / cell⌉, W]."""
    cells = mask[::cell_px].copy()
    for row in range(1, min(cell_px, mask.shape[0])):
        rows = mask[row::cell_px]
        np.maximum(cells[: len(rows)], rows, out=cells[: len(rows)])
    return cells


def _cover(mask: Grey, parts: int) -> Grey:
    """Shrink the rows to `parts`; a row that straddles two counts in both. OpenCV's averages round small ones off."""
    rows = mask.shape[0]
    shrunk = np.empty((parts, mask.shape[1]), np.uint8)
    for i in range(parts):
        np.max(mask[i * rows // parts : -(-(i + 1) * rows // parts)], axis=0, out=shrunk[i])
    return shrunk


def _solid(mask: Bool | Grey) -> Grey:
    """Nonzero → 255; a new, contiguous array."""
    solid: Grey = np.not_equal(mask, 0, order="C").view(np.uint8) * np.uint8(255)
    return solid


def _same_aspect(shape: tuple[int, ...], other: tuple[int, int]) -> bool:
    """Alike within the tolerance, or within one pixel of rounding on either side."""
    (h, w), (height, width) = shape, other
    scale = ((h / height) * (w / width)) ** 0.5
    return all(
        abs(side - whole * scale) <= max(1.0, _ASPECT_TOLERANCE / 2 * side) for side, whole in ((h, height), (w, width))
    )
