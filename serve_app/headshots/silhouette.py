"""What a silhouette tells: which of several subjects is meant, where it is cut off, and where its head is.

The head is looked for by shape alone, as a part that a neck sets off. Every part of a silhouette is a peak of its
distance transform (the radius of the largest disc that fits in there), and between two parts lies a saddle, where the
discs that fit are smallest: the neck. Lowering a level over the distances joins the parts one after the other; whenever
two join, the upper one may be the head. Ears, muzzle and tongue are far too thin to be parts of their own size and go
to the nearest one.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from serve_app.headshots.matting import Alpha

Mask = NDArray[np.bool_]
"""[h, w] bool."""
Box = tuple[int, int, int, int]
"""left, top, right, bottom; right and bottom are just outside."""
Edges = frozenset[str]
"""Of left, top, right, bottom."""

GRID = 256  # cells along the long edge; a whisker is thinner than a cell and a muzzle a dozen cells long
SOLID = 0.5  # alpha from which a cell counts as the subject's
FAINT = 0.1  # alpha that still links two parts, as a leash or an arm in shadow does
_GAP = 0.012  # of the long edge; parts closer than that belong together
_BORDER = 2  # cells: a network rarely draws the subject up to the very last one
_PAD = 64  # cells by which the subject is continued beyond the photo's edges, where it surely does not end
_STEP = 0.5  # cells from one level to the next
_NECK = 0.97  # of the smaller part's radius; a saddle less deep is an uneven outline
_MOST = (0.5, 0.65)  # share of the subject: surely a head below, surely none above
_MOST_OF_CUT = (0.75, 0.9)  # the same where the rest goes on below the photo
_SURE = 0.5  # confidence below which a head is no better than a guess


@dataclass(frozen=True, slots=True)
class Head:
    """`box` in cells of the grid, ears included; `confidence` 0..1 that it is the head."""

    box: Box
    confidence: float


def keep_subject(coarse: Alpha) -> Alpha:
    """The alpha of the largest subject and of all that touches or overlaps it; other subjects become 0."""
    solid = (coarse >= SOLID).astype(np.uint8)
    if not solid.any():
        return coarse
    reach = 2 * round(_GAP * max(coarse.shape)) + 1
    near = cv2.dilate((coarse >= FAINT).astype(np.uint8), np.ones((reach, reach), np.uint8))
    _, labels = cv2.connectedComponents(near, connectivity=8)
    sizes = np.bincount(labels[solid > 0])
    return np.where(labels == int(sizes.argmax()), coarse, np.float32(0)).astype(np.float32)


def to_grid(coarse: Alpha, width: int, height: int, level: float = SOLID) -> Mask:
    """Where alpha is `level` at least, on a grid in a photo's proportions, `GRID` cells along its long edge."""
    scale = GRID / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if coarse.shape[0] > size[1] and coarse.shape[1] > size[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(coarse, size, interpolation=method) >= level)


def bound(mask: Mask) -> Box:
    """The smallest box around the mask, which must not be empty."""
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return left, top, left + width, top + height


def find_cuts(mask: Mask) -> Edges:
    """The photo's edges at which the subject goes on outside the photo."""
    bands = {
        "left": mask[:, :_BORDER], "top": mask[:_BORDER], "right": mask[:, -_BORDER:], "bottom": mask[-_BORDER:]
    }  # fmt: skip
    return frozenset(name for name, band in bands.items() if band.any())


def find_head(mask: Mask) -> Head | None:
    """The part of the silhouette that is most likely the head; None where no part stands out, or two do alike."""
    padded = np.pad(mask, _PAD, mode="edge")
    if padded.all() or not mask.any():
        return None
    radii = _measure_radii(padded)
    heads = sorted(_find_candidates(mask, padded, radii), key=lambda head: -head.confidence)
    return heads[0] if heads and heads[0].confidence >= _SURE else None


def find_bulk(mask: Mask) -> Box:
    """The box around the largest disc in the subject, centred inside the photo; all of it where nothing bounds it."""
    padded = np.pad(mask, _PAD, mode="edge")
    if padded.all():
        return bound(mask)
    inside = np.pad(mask, _PAD)
    return _clip(_bound_disc(np.where(inside, _measure_radii(padded), 0)), bound(mask))


def _measure_radii(mask: Mask) -> NDArray[np.float32]:
    """Per cell the radius of the largest disc around it inside the mask."""
    radii = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(radii, np.float32)


def _find_candidates(mask: Mask, padded: Mask, radii: NDArray[np.float32]) -> list[Head]:
    found: list[Head] = []
    above: NDArray[np.int32] | None = None
    for level in np.arange(float(radii.max()), 2.0, -_STEP):
        count, labels = cv2.connectedComponents((radii >= level).astype(np.uint8), connectivity=8)
        if above is not None:
            for joined in range(1, count):
                parts = np.unique(above[(labels == joined) & (above > 0)])
                if len(parts) > 1:
                    found += _judge(mask, padded, radii, above, parts.tolist(), float(level))
        above = np.asarray(labels, np.int32)
    return found


def _judge(
    mask: Mask, padded: Mask, radii: NDArray[np.float32], labels: NDArray[np.int32], parts: list[int], saddle: float
) -> list[Head]:
    """Each of the parts that join at `saddle`, taken as the head of all the others."""
    peaks = {part: float(radii[labels == part].max()) for part in parts}
    whole = bound(mask)
    found = []
    for part in parts:
        rest = max(peaks[other] for other in parts if other != part)
        if saddle > _NECK * min(peaks[part], rest):
            continue
        region = _claim(padded, labels == part, (labels > 0) & (labels != part))[_PAD:-_PAD, _PAD:-_PAD] & mask
        if region.any():
            body = mask & ~region
            confidence = _rate(region, body, peaks[part], rest, saddle) if body.any() else 0.0
            disc = _bound_disc(np.where(labels == part, radii, 0))
            found.append(Head(_clip(_unite(bound(region), disc), whole), confidence))
    return found


def _claim(mask: Mask, core: Mask, others: Mask) -> Mask:
    """The cells of the mask nearer to the core than to the others."""
    to_core, to_others = (
        cv2.distanceTransform((~cells).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for cells in (core, others)
    )
    return np.asarray(mask & (to_core < to_others))


def _bound_disc(radii: NDArray[np.float32]) -> Box:
    """The box around the largest disc, in cells of the mask: a chin that hangs before the chest is in it."""
    row, column = (int(i) - _PAD for i in np.unravel_index(int(radii.argmax()), radii.shape))
    reach = int(radii.max())
    return column - reach, row - reach, column + reach + 1, row + reach + 1


def _unite(box: Box, other: Box) -> Box:
    return min(box[0], other[0]), min(box[1], other[1]), max(box[2], other[2]), max(box[3], other[3])


def _clip(box: Box, limits: Box) -> Box:
    return max(box[0], limits[0]), max(box[1], limits[1]), min(box[2], limits[2]), min(box[3], limits[3])


def _rate(region: Mask, body: Mask, radius: float, rest: float, saddle: float) -> float:
    """0..1: there is a neck, the part lies above the rest, is round, and is neither a paw nor all but a paw.

    The bounds were set on some thirty photos: heads had 0.15 to 0.45 of the subject's cells, and what a tail, a leg or
    a bent outline cut off left a "head" of more than 0.8; a body behind a head held low, cut off by the photo's upper
    edge, had less than half of its own disc inside the photo.
    """
    left, top, right, bottom = bound(region)
    centre, other = (float(np.nonzero(cells)[0].mean()) for cells in (region, body))
    subject_top = min(top, bound(body)[1])
    height = max(bottom, bound(body)[3]) - subject_top
    neck = _ramp(_NECK - saddle / min(radius, rest), 0.0, 0.06)
    above = _ramp((other - centre) / (radius + rest), 0.1, 0.5)
    at_top = 1 - _ramp((top - subject_top) / height, 0.15, 0.45)
    fullness = float(region.sum()) / (np.pi * radius**2)
    roundness = _ramp(fullness, 0.5, 0.8) * (1 - _ramp(fullness, 2.0, 3.5))
    on_feet = 1 - _ramp((bottom - subject_top) / height, 0.75, 0.9)  # what stands on the ground is a rump
    share = float(region.sum()) / float(region.sum() + body.sum())
    size = _ramp(radius / rest, 0.25, 0.4) * (1 - _ramp(share, *(_MOST_OF_CUT if body[-_BORDER:].any() else _MOST)))
    slim = 1 - _ramp(max(right - left, bottom - top) / (2 * radius), 2.5, 4.5)
    return neck * above * at_top * on_feet * roundness * size * slim


def _ramp(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low)))
