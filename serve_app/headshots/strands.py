"""Whiskers and long hairs, which leave the subject farther than a network's edge is wide.

Found as thin pieces of contrast, a little bent, that stand out from the texture of the background, begin at the edge
and go away from it. Closed-form matting then says whether the subject's colours really flow into them at their root (a
joint between bricks gets next to nothing there); but it fades along a strand, which in truth is as opaque far out as at
its root. So alpha of those that pass is taken from their contrast with what is beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from serve_app.headshots.matting import Alpha, Rgb

Bools = NDArray[np.bool_]
Field = NDArray[np.float32]
Points = tuple[NDArray[np.intp], NDArray[np.intp]]

# Chosen on the composites of `python -m bench.headshot_matting --tuning`; pixels are those of the base solution.
DIRECTIONS = 16  # line detectors, in steps of 11°
SECTOR = 4  # neighbouring directions that make one line: a strand bends, and lines that cross stay apart
ACROSS_PX, ALONG_PX = 1.0, 5.0  # a detector's width and length, as standard deviations
KERNEL_PX = 12  # a detector's reach: beyond it a Gaussian of 5 pixels is faint
LIKELY, SURE = 2.5, 5.0  # times the line strength usual nearby
USUAL_GRAINS = 10.0  # what is nearby
FAINTEST = 0.5  # grey levels: on a perfectly even background everything would stand out
REACH = 0.5  # of the root of the subject's area: how far from it strands are looked for
LENGTH_GRAINS = 4.0  # how far beyond the band one reaches at least
GROW_PX = 2  # how far a strand's sides are from its middle
BEND = 0.025  # hairs bend by .03 to .24 on photos; door frames, joints of tiles and seams of cushions by up to .02
ROOT_GRAINS, ROOT_PX = 1.5, 2.0  # how much of it beyond the band is its root
ROOT = 0.05  # closed-form alpha at the root of a strand: hairs had .05 to .7, joints and edges of shelves up to .02
CLEAR = 0.1  # closed-form alpha up to which a pixel shows the background
BESIDE = 0.1  # share of a neighbourhood that must show it, to know it
PEAK, PEAK_SHARE = 0.85, 0.3  # alpha taken for the mean of the strongest pixels of a strand, and which these are
ALIKE, USUAL_SHARE = 12.0, 0.02  # levels of 255 in which a strand's colour is the background's, if so much of it is
SPARSE = 7  # of the background's pixels, every so manyth is asked
FAINT = 0.15  # share of a strand's colour that chance gives
OTHER = 0.35  # of the strand's contrast: so much of other colours is too much
CONTRAST = 15.0  # levels of 255, all channels together: fainter strands drown in noise


@dataclass(frozen=True, slots=True)
class Strands:
    """`lines` are the middle pixels of each strand (rows, columns); `around` [H, W] what they may cover in all."""

    lines: tuple[Points, ...]
    around: Bools
    outside: Field
    """[H, W] distance to the band or subject in pixels, 0 in them."""


def find_strands(image: Rgb, subject: Bools, band: Bools, grain_px: float) -> Strands:
    """The strands in a photo [H, W, 3] uint8 RGB that leave the band [H, W] around the subject [H, W]."""
    near = subject | band
    outside = np.zeros(near.shape, np.float32)
    if not subject.any() or near.all():
        return Strands((), np.zeros(near.shape, np.bool_), outside)
    outside = np.asarray(cv2.distanceTransform((~near).astype(np.uint8), cv2.DIST_L2, 3), np.float32)
    within = outside < REACH * float(np.sqrt(np.count_nonzero(subject)))
    strength, direction = _detect_lines(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32))
    usual = _mean_over(strength, within & ~near, USUAL_GRAINS * grain_px)
    contrast = np.where(within & ~subject, strength / np.maximum(usual, FAINTEST), 0)
    lines: list[Points] = []
    for first in range(0, DIRECTIONS, SECTOR // 2):
        sector = (contrast > LIKELY) & ((direction - first) % DIRECTIONS < SECTOR)
        lines += _pick_rooted(sector, contrast > SURE, outside, LENGTH_GRAINS * grain_px)
    found = np.zeros(near.shape, np.uint8)
    for line in lines:
        found[line] = 1
    return Strands(tuple(lines), _grow(found) & ~near, outside)


def level_strands(image: Rgb, alpha: Alpha, strands: Strands, subject: Bools, grain_px: float) -> Alpha:
    """`alpha` [H, W] with the strands' own, where it is not higher already, and 0 on those that are none after all."""
    if not strands.lines:
        return alpha
    behind, known = _find_background(image, subject | strands.around | (alpha > CLEAR), grain_px)
    difference = image.astype(np.float32) - behind
    usual = image[(strands.outside > 0) & ~strands.around][::SPARSE].astype(np.float32)
    result, refused = alpha.copy(), strands.around.copy()
    for line in strands.lines:
        beyond = strands.outside[line] > 0
        root = beyond & (strands.outside[line] <= ROOT_GRAINS * grain_px + ROOT_PX)
        if not root.any() or np.percentile(alpha[line][root], 90) < ROOT:
            continue
        seen = difference[line][beyond]
        strength = np.linalg.norm(seen, axis=1)
        strongest = strength >= np.percentile(strength, 100 * (1 - PEAK_SHARE))
        colour = seen[strongest].mean(0) / PEAK
        if float((colour**2).sum()) < CONTRAST**2 or _is_usual(image[line][beyond][strongest].mean(0), usual):
            continue
        place, covered = _cover(line, alpha.shape)
        share = _measure_share(difference[place], colour)
        refused[place] &= ~covered
        share[~covered | ~known[place] | subject[place]] = 0
        np.maximum(result[place], share, out=result[place])
    result[refused] = 0
    return result


def _measure_share(difference: Field, colour: Field) -> Field:
    """How much of a strand's `colour` [3] is in each difference [h, w, 3] from the background, 0..1; other colours tell
    that what was taken for the background is not it, and count against it."""
    power = float((colour**2).sum())
    # Not by `@`: for so little work BLAS would wake its threads.
    share = np.clip((difference * colour).sum(2) / power, 0, 1)
    other = np.linalg.norm(difference - share[..., None] * colour, axis=2)
    share *= np.exp(-((other / (OTHER * np.sqrt(power))) ** 2))
    return np.asarray(np.clip((share - FAINT) / (1 - FAINT), 0, 1), np.float32)


def _is_usual(colour: Field, background: Field) -> bool:
    """Whether the background [n, 3] has plenty of that colour, as with joints between bricks and blades of grass."""
    alike = np.abs(background - colour).max(1) <= ALIKE
    return bool(alike.mean() > USUAL_SHARE) if len(background) else False


def _detect_lines(grey: Field) -> tuple[Field, NDArray[np.uint8]]:
    """The strength of the strongest line through each pixel [H, W], in grey levels, and which direction it has."""
    best, direction = np.zeros(grey.shape, np.float32), np.zeros(grey.shape, np.uint8)
    for index in range(DIRECTIONS):
        strength = np.abs(cv2.filter2D(grey, cv2.CV_32F, _make_detector(np.pi * index / DIRECTIONS)))
        direction[strength > best] = index
        np.maximum(best, strength, out=best)
    return best, direction


def _make_detector(angle: float) -> Field:
    """The second derivative of a Gaussian across a line, smoothed along it; a flat picture gives 0."""
    y, x = np.mgrid[-KERNEL_PX : KERNEL_PX + 1, -KERNEL_PX : KERNEL_PX + 1].astype(np.float64)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kernel = (1 - (across / ACROSS_PX) ** 2) * np.exp(-((along / ALONG_PX) ** 2 + (across / ACROSS_PX) ** 2) / 2)
    kernel -= kernel.mean()
    return np.asarray(2 * kernel / np.abs(kernel).sum(), np.float32)


def _pick_rooted(lines: Bools, sure: Bools, outside: Field, length_px: float) -> list[Points]:
    """The connected lines that touch the band, reach `length_px` beyond it, and are sure for half of that."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(lines.astype(np.uint8), connectivity=8)
    certain = np.bincount(labels[lines & sure & (outside > 0)], minlength=count) >= length_px / 2
    reach, rooted = np.zeros(count, np.float32), np.zeros(count, np.bool_)
    np.maximum.at(reach, labels[lines], outside[lines])
    rooted[labels[lines & (outside <= ROOT_PX)]] = True
    picked: list[Points] = []
    for label in np.flatnonzero(rooted & certain & (reach >= length_px)):
        left, top, width, height = stats[label, :4]
        rows, columns = np.nonzero(labels[top : top + height, left : left + width] == label)
        line = (rows + top, columns + left)
        if _find_bend(line) >= BEND:
            picked.append(line)
    return picked


def _find_bend(line: Points) -> float:
    """How far the middle of a line lies beside its ends, over its length: of the parabola along its main axis."""
    points = np.stack(line, 1) - np.mean(line, 1)
    axis = cv2.eigen(points.T.dot(points))[2]
    along, across = (points * axis[0]).sum(1), (points * axis[1]).sum(1)
    length = float(np.ptp(along))
    if length == 0:
        return 0.0
    # The share of along² that is neither constant nor linear, by Gram and Schmidt.
    curve = along**2 - (along**2).mean()
    curve -= along * float((along * curve).sum() / (along**2).sum())
    power = float((curve**2).sum())
    return abs(float((across * curve).sum()) / power) * (length / 2) ** 2 / length if power > 0 else 0.0


def _cover(line: Points, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], Bools]:
    """The box around a strand, and what the strand may cover in it."""
    rows, columns = line
    top, left = max(0, int(rows.min()) - GROW_PX), max(0, int(columns.min()) - GROW_PX)
    bottom, right = min(shape[0], int(rows.max()) + GROW_PX + 1), min(shape[1], int(columns.max()) + GROW_PX + 1)
    mask = np.zeros((bottom - top, right - left), np.uint8)
    mask[rows - top, columns - left] = 1
    return (slice(top, bottom), slice(left, right)), _grow(mask)


def _grow(mask: NDArray[np.uint8]) -> Bools:
    return np.asarray(cv2.dilate(mask, np.ones((2 * GROW_PX + 1,) * 2, np.uint8)) > 0)


def _find_background(image: Rgb, hidden: Bools, grain_px: float) -> tuple[Field, Bools]:
    """The background behind each pixel [H, W, 3], from beside it; and where enough of it shows to be known."""
    shown = (~hidden).astype(np.float32)
    colours = image.astype(np.float32) * shown[..., None]
    result, known = np.zeros_like(colours), np.zeros(hidden.shape, np.bool_)
    for sigma in (1.5 * grain_px, GROW_PX + 1.0):  # the nearer one where there is one
        weight = cv2.GaussianBlur(shown, (0, 0), sigma)
        blurred = cv2.GaussianBlur(colours, (0, 0), sigma) / np.maximum(weight, 1e-6)[..., None]
        result = np.where((weight > BESIDE)[..., None], blurred, result)
        known |= weight > BESIDE
    return result, known


def _mean_over(values: Field, where: Bools, radius_px: float) -> Field:
    window = (2 * max(1, round(radius_px)) + 1,) * 2
    shown = where.astype(np.float32)
    return np.asarray(cv2.blur(values * shown, window) / np.maximum(cv2.blur(shown, window), 1e-3), np.float32)
