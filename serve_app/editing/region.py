"""Which parts of a photo go through the model, and at which size.

Masked pixels that lie together become one region. A region owns the masked pixels inside its `target`; targets are
disjoint and hold every masked pixel, so each has exactly one owner, while boxes may overlap freely. Masked pixels of a
neighbour that show in a box are masked for the model, too, but only their owner's result is used.

Time on a model grows with its pixels, so parts are joined only where one crop costs less than two.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations

import cv2
import numpy as np
from numpy.typing import NDArray

from serve_app.editing.mask import occupied
from serve_app.errors import ConfigurationError, MaskEmpty
from serve_app.settings_sections import DEFAULT_QUALITIES, Quality

Box = tuple[int, int, int, int]
"""left, top, right, bottom; right and bottom are just outside."""

MAX_REGIONS = 8
_MAX_PARTS = 16  # parts looked at one by one; more of them are first joined by looking less closely
_GRID = 512  # cells along the long edge in which parts are told apart: 8 pixels apart on a 12-megapixel photo
_MEGAPIXEL = 2**20  # pixels; the protocol's largest crop
# Model pixels. FLUX and MI-GAN are poor below 256; FLUX's position codes were trained up to about 2 megapixels.
_LENGTHS = (*range(256, 1024, 64), *range(1024, 2049, 128))
_CROP_COST = 128 * 16**2  # model pixels; a crop's text tokens cost as much as so many image tokens of 16 × 16 pixels
_ROUNDING = 2  # model pixels of context that pay for a box of whole photo pixels


@dataclass(frozen=True, slots=True)
class Region:
    """`box` is cut out of the photo and scaled to `size` (width, height; multiples of 16).

    `target` bounds the masked pixels this region owns.
    """

    box: Box
    size: tuple[int, int]
    target: Box


def plan(mask: NDArray[np.generic], quality: Quality | str, context_px: int = 64, grow_px: int = 0) -> list[Region]:
    """Regions for a bool or uint8 mask [H, W] (nonzero = edit) at photo size, ordered from top to bottom.

    `quality` is a row of the quality table or the name of a shipped one. Every region has at least `context_px` model
    pixels between its target and each side of its box, or the photo's edge there. Density (model pixels per photo
    pixel) is at most `quality.detail`, and less where the size limit demands it; it exceeds `detail` only along a side
    on which the whole photo would fall below the smallest edge. A box that takes in a whole side of the photo may be
    scaled unevenly. `grow_px` makes room for a mask that will be dilated by so many photo pixels: targets then
    bound the dilated mask. Raises MaskEmpty, and ConfigurationError for a name that is not shipped.
    """
    row = _quality(quality)
    ladder = _Ladder(mask.shape[1], mask.shape[0], row, context_px)
    targets = _merge(_parts(np.ascontiguousarray(mask), grow_px), ladder)
    return [ladder.region(target) for target in sorted(targets, key=lambda box: (box[1], box[0]))]


@cache
def edges(max_area: int) -> NDArray[np.float64]:
    """The lengths a crop's side may have, ascending; none below 256 unless 256 × 256 exceeds `max_area` model pixels.

    Twenty-one lengths. Small crops, which gain from sharing a batch, meet others of the same size: there are 25 sizes
    up to 512 × 512. Large ones gain nothing from company, and with coarser steps a long leash would cost a sixth more.
    """
    lowest = int(max_area**0.5) // 16 * 16
    smaller = [max(16, lowest)] if lowest < _LENGTHS[0] else []
    return np.array([*smaller, *_LENGTHS], np.float64)


class _Ladder:
    """Fits targets of one photo to the fixed sizes."""

    def __init__(self, width: int, height: int, quality: Quality, context_px: int) -> None:
        self._photo = (width, height)
        self._detail = quality.detail
        self._context = context_px
        area = int(min(1.0, quality.max_megapixels) * _MEGAPIXEL)
        self._edges = edges(area)
        self._areas = np.multiply.outer(self._edges, self._edges)
        self._allowed = self._areas <= max(area, 256)
        self._fits: dict[Box, tuple[tuple[int, int], float]] = {}

    def cost(self, target: Box) -> float:
        """Model pixels for a target, counting lost detail as if it were paid for, plus what any crop costs."""
        (width, height), density = self._fit(target)
        return width * height * max(1.0, self._detail / density) ** 2 + _CROP_COST

    def region(self, target: Box) -> Region:
        size, density = self._fit(target)
        lefts, rights = zip(*(self._place(target, size[axis], density, axis) for axis in (0, 1)), strict=True)
        return Region((lefts[0], lefts[1], rights[0], rights[1]), size, target)

    def _fit(self, target: Box) -> tuple[tuple[int, int], float]:
        """The size of greatest density, among those the smallest; and that density."""
        if target not in self._fits:
            across, down = (self._densities(target, axis) for axis in (0, 1))
            density = np.where(self._allowed, np.minimum.outer(across, down), -1.0)
            good = density >= density.max() * (1 - 1e-9)
            best = np.unravel_index(np.where(good, self._areas, np.inf).argmin(), density.shape)
            size = (int(self._edges[best[0]]), int(self._edges[best[1]]))
            self._fits[target] = (size, float(density[best]))
        return self._fits[target]

    def _densities(self, target: Box, axis: int) -> NDArray[np.float64]:
        """Per edge length, the greatest density at which target and context fit; -1 where the photo is too small.

        At density s the target with its context takes min over the four sums below of s·length + context, because
        context ends at the photo's edge.
        """
        length = self._photo[axis]
        low, high = target[axis], target[axis + 2]
        context = self._context + _ROUNDING
        densities = self._edges / length
        for span, margins in ((high, 1), (length - low, 1), (high - low, 2)):
            densities = np.maximum(densities, (self._edges - margins * context) / span)
        densities = np.minimum(densities, self._detail)
        too_long = self._edges > self._detail * length * (1 + 1e-9)
        too_long[0] = False
        return np.where(too_long, -1.0, densities)

    def _place(self, target: Box, edge: int, density: float, axis: int) -> tuple[int, int]:
        """Where the box begins and ends: the target in the middle, moved inward at the photo's edges."""
        length = self._photo[axis]
        span = min(length, int(np.ceil(edge / density - 1e-6)))
        start = round((target[axis] + target[axis + 2] - span) / 2)
        start = min(max(0, start), length - span)
        return start, start + span


def _quality(quality: Quality | str) -> Quality:
    if isinstance(quality, Quality):
        return quality
    if quality not in DEFAULT_QUALITIES:
        raise ConfigurationError(f"There is no quality '{quality}'; shipped are {', '.join(DEFAULT_QUALITIES)}")
    return DEFAULT_QUALITIES[quality]


def _parts(mask: NDArray[np.generic], grow_px: int) -> list[Box]:
    """Bounding boxes of what lies together, exact and disjoint; crowds of specks are looked at ever more coarsely."""
    flat = mask.view(np.uint8) if mask.dtype.itemsize == 1 else (mask != 0).view(np.uint8)
    height, width = flat.shape
    cell = max(1, -(-max(width, height) // _GRID))
    grid = occupied(flat, cell)
    while True:
        count, _, stats, _ = cv2.connectedComponentsWithStats(grid, connectivity=8)
        if count - 1 <= _MAX_PARTS:
            break
        grid, cell = occupied(grid, 2), cell * 2
    if count == 1:
        raise MaskEmpty("The mask marks nothing, so there is nothing to remove; paint what to remove white.")
    coarse = [(x, y, x + w, y + h) for x, y, w, h in stats[1:, :4].tolist()]
    scaled = [(a * cell, b * cell, min(width, c * cell), min(height, d * cell)) for a, b, c, d in _disjoint(coarse)]
    grown = []
    for left, top, right, bottom in (_tight(flat, box) for box in scaled):
        grown.append(
            (max(0, left - grow_px), max(0, top - grow_px), min(width, right + grow_px), min(height, bottom + grow_px))
        )
    return _disjoint(grown)


def _tight(mask: NDArray[np.uint8], box: Box) -> Box:
    left, top, right, bottom = box
    x, y, w, h = cv2.boundingRect(mask[top:bottom, left:right])
    return left + x, top + y, left + x + w, top + y + h


def _merge(targets: list[Box], ladder: _Ladder) -> list[Box]:
    """Join the pair that saves most until none saves anything and there are few enough."""
    while len(targets) > 1:
        pairs = list(combinations(targets, 2))
        saved = [ladder.cost(a) + ladder.cost(b) - ladder.cost(_union(a, b)) for a, b in pairs]
        best = max(range(len(pairs)), key=saved.__getitem__)
        if saved[best] <= 0 and len(targets) <= MAX_REGIONS:
            break
        rest = [target for target in targets if target not in pairs[best]]
        targets = _disjoint([*rest, _union(*pairs[best])])
    return targets


def _disjoint(boxes: list[Box]) -> list[Box]:
    """Join boxes until none overlaps another."""
    done: list[Box] = []
    for box in boxes:
        whole = box
        while hit := next((other for other in done if _overlap(whole, other)), None):
            done.remove(hit)
            whole = _union(whole, hit)
        done.append(whole)
    return done


def _union(a: Box, b: Box) -> Box:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
