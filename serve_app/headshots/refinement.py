"""Alpha at the photo's full size from a network's coarse one.

The network sees the photo at 320 or 1024 pixels, so its edge is a few of its own pixels ("grains") wide and says
nothing of hairs. It is trusted away from the edge. Within a band around the edge, and along whiskers that leave it,
alpha is solved for from the photo's colours (`closed_form`): first at a bounded size, from coarse to fine, then at each
doubling for the pixels that are still in doubt. So both time and memory go with the length of the edge.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from serve_app.headshots.closed_form import solve_alpha
from serve_app.headshots.matting import Alpha, Rgb
from serve_app.headshots.strands import find_strands, level_strands

Bools = NDArray[np.bool_]

# Chosen on the composites of `python -m bench.headshot_matting --tuning`.
LOW, HIGH = 0.05, 0.9  # the network's answer below and above is a no and a yes; its yes wavers more than its no
INWARD_GRAINS, OUTWARD_GRAINS = 2.0, 3.0  # how far the band goes beyond that; fur stands out farther than in
BASE_PX = 1500  # long edge of the first solution: there the whole band is unknown, and whiskers are still visible
SMALLEST_PX = 256  # long edge where the start from coarse to fine begins
BASE_ITERATIONS, FINE_ITERATIONS = 120, 60
BASE_PRIOR, FINE_PRIOR = 5e-4, 1e-3  # how much the start counts: the network's guess hardly, a solution more
DOUBT = 0.02  # nearer than this to 0 or 1, a doubling asks no more
DOUBT_PX = 2  # how far around the doubtful pixels it asks
MOST_UNKNOWN = 2_500_000  # pixels, 1 GB: a doubling with more of them keeps the enlarged solution
ISLAND = 0.01  # of the largest part's area: smaller parts of the network's answer are stray
LEAST = 2 / 255  # alpha nearer to 0 or 1 is that: a haze nobody sees that would still hinder cropping by alpha


def refine_alpha(image: Rgb, coarse: Alpha, *, grain_px: float | None = None) -> Alpha:
    """Alpha [H, W] float32 of a photo [H, W, 3] uint8 RGB, exactly 0 or 1 away from the subject's edge.

    `coarse` [h, w] float32 0..1 shows the same view at any size. `grain_px` is how many of the photo's pixels one of
    the network's takes, which follows from the sizes unless `coarse` has been scaled since.
    """
    height, width = image.shape[:2]
    if grain_px is None:
        grain_px = max(height / coarse.shape[0], width / coarse.shape[1])
    halvings = 0
    while max(height, width) >> halvings > BASE_PX:
        halvings += 1
    alpha = _solve_base(_shrink(image, halvings), coarse, max(1.0, grain_px / 2**halvings))
    for halving in reversed(range(halvings)):
        alpha = _solve_doubled(_shrink(image, halving), alpha)
    alpha[alpha < LEAST] = 0
    alpha[alpha > 1 - LEAST] = 1
    return alpha


def split(guess: Alpha, grain_px: float) -> tuple[Bools, Bools]:
    """What is certainly subject and what is certainly background, each [H, W], by a guess [H, W] of alpha.

    A doubt with the subject all around it is a nose or an eye, and subject.
    """
    yes, maybe = (guess > HIGH).astype(np.uint8), (guess >= LOW).astype(np.uint8)
    subject = cv2.erode(yes, _disc(INWARD_GRAINS * grain_px)) > 0
    background = cv2.dilate(maybe, _disc(OUTWARD_GRAINS * grain_px)) == 0
    doubt = ~subject & ~background
    if not subject.any() or not doubt.any():
        return subject, background
    _, labels = cv2.connectedComponents(doubt.astype(np.uint8), connectivity=8)
    beside = cv2.dilate(background.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    beside[0], beside[-1], beside[:, 0], beside[:, -1] = True, True, True, True
    return subject | (doubt & ~np.isin(labels, np.unique(labels[beside & doubt]))), background


def clear_islands(guess: Alpha) -> Alpha:
    """The guess [H, W] of alpha without parts that are far smaller than the largest one."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((guess >= LOW).astype(np.uint8), connectivity=8)
    if count <= 2:
        return guess
    areas = stats[:, cv2.CC_STAT_AREA]
    stray = 1 + np.flatnonzero(areas[1:] < ISLAND * areas[1:].max())
    return np.where(np.isin(labels, stray), 0, guess).astype(np.float32)


def _solve_base(image: Rgb, coarse: Alpha, grain_px: float) -> Alpha:
    height, width = image.shape[:2]
    # Both OpenCV here and Pillow before the network count from the pixels' corners, so nothing shifts.
    guess = np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)
    guess = clear_islands(guess)
    subject, background = split(guess, grain_px)
    band = ~subject & ~background
    start = np.clip((guess - LOW) / (HIGH - LOW), 0, 1).astype(np.float32)
    start[subject], start[background] = 1, 0
    strands = find_strands(image, subject, band, grain_px)
    alpha = _solve_from_coarser(image, start, band | strands.around)
    return level_strands(image, alpha, strands, subject, grain_px)


def _solve_from_coarser(image: Rgb, start: Alpha, unknown: Bools) -> Alpha:
    """The unknown pixels solved for, beginning with the solution at half the size."""
    height, width = unknown.shape
    if max(height, width) >= 2 * SMALLEST_PX:
        half = (max(1, width // 2), max(1, height // 2))
        coarser = _solve_from_coarser(
            cv2.resize(image, half, interpolation=cv2.INTER_AREA),
            cv2.resize(start, half, interpolation=cv2.INTER_AREA),
            cv2.resize(unknown.astype(np.float32), half, interpolation=cv2.INTER_AREA) > 0,
        )
        start = np.where(unknown, cv2.resize(coarser, (width, height), interpolation=cv2.INTER_LINEAR), start)
    return solve_alpha(image, start, unknown, BASE_PRIOR, BASE_ITERATIONS)


def _solve_doubled(image: Rgb, alpha: Alpha) -> Alpha:
    """Alpha at the image's size from the one at half of it."""
    height, width = image.shape[:2]
    start: Alpha = np.clip(cv2.resize(alpha, (width, height), interpolation=cv2.INTER_LINEAR), 0, 1)
    doubtful = ((start > DOUBT) & (start < 1 - DOUBT)).astype(np.uint8)
    unknown = cv2.dilate(doubtful, _disc(DOUBT_PX)) > 0
    np.rint(start, out=start, where=~unknown)
    if np.count_nonzero(unknown) > MOST_UNKNOWN:
        return start
    return solve_alpha(image, start, unknown, FINE_PRIOR, FINE_ITERATIONS)


def _shrink(image: Rgb, halvings: int) -> Rgb:
    if halvings == 0:
        return image
    size = (max(1, image.shape[1] >> halvings), max(1, image.shape[0] >> halvings))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def _disc(radius: float) -> NDArray[np.uint8]:
    size = 2 * max(1, round(radius)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), np.uint8)
