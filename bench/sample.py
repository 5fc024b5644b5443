"""Draw a leash on a photo, so that the photo itself is the ground truth: `python -m bench.sample PHOTO OUT`.

Writes `original.jpg` (the photo with the leash), `mask_auto.png` (white = edit, as the app's detector would send it:
leash, clip and shadow, a little generous) and `ground_truth.jpg` into OUT. The same photo gives the same files.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

Field = NDArray[np.float32]
"""[H, W] float32."""

SEED = 20
LIGHT_RGB = (1.0, 0.98, 0.94)
SHADOW_OFFSET_PX = (3.0, 8.0)  # the light comes from above, a little from the left
SHADOW_BLUR_PX = 3.5
SHADOW_DEPTH = 0.45
MASK_MARGIN_PX = 4  # detectors draw around the thing, not along its edge


@dataclass(frozen=True)
class Leash:
    """A strap along a cubic Bézier curve; points are shares of width and height, colour is RGB in [0, 1]."""

    curve: tuple[tuple[float, float], ...] = ((0.415, 0.60), (0.36, 0.90), (0.18, 0.82), (-0.03, 0.64))
    colour: tuple[float, float, float] = (0.78, 0.10, 0.12)
    stitch: tuple[float, float, float] = (0.93, 0.80, 0.74)
    width_px: float = 15.0
    clip_px: float = 50.0
    """Length of the metal clip at the animal's end."""


def trace(curve: tuple[tuple[float, float], ...], height: int, width: int) -> tuple[Field, Field]:
    """Distance of every pixel to the curve, signed by its side, and arc length of its nearest point, both in pixels."""
    t = np.linspace(0, 1, 1200)[:, None]
    a, b, c, d = (np.array(point) * (width, height) for point in curve)
    points = (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    tangents = np.gradient(points, axis=0)
    tangents /= np.hypot(*tangents.T)[:, None]
    reach = 40
    distance = np.full((height, width), 1e6, np.float32)
    arc = np.zeros((height, width), np.float32)
    for (x, y), (tx, ty), s in zip(points, tangents, along, strict=True):
        top, left = max(0, int(y) - reach), max(0, int(x) - reach)
        window = np.s_[top : max(0, int(y) + reach), left : max(0, int(x) + reach)]
        if distance[window].size == 0:
            continue
        rows, columns = np.indices(distance[window].shape, dtype=np.float32)
        dx, dy = columns + left - x, rows + top - y
        far = np.hypot(dx, dy).astype(np.float32)
        near = far < np.abs(distance[window])
        distance[window][near] = np.where(tx * dy - ty * dx < 0, -far, far)[near]
        # The curve is sampled: the part of the offset along the tangent makes the arc length continuous, and negative
        # before the start, where the clip's round end needs it.
        arc[window][near] = (s + dx * tx + dy * ty)[near]
    return distance, arc


def weave(distance: Field, arc: Field, leash: Leash, rng: np.random.Generator) -> tuple[NDArray[np.float32], Field]:
    """Colour [H, W, 3] in [0, 1] and coverage [H, W] in [0, 1] of the woven strap."""
    half = leash.width_px / 2
    across = np.clip(distance / half, -1, 1)
    round_off = 0.62 + 0.50 * np.sqrt(np.clip(1 - 0.9 * across**2, 0, 1)) - 0.14 * across
    twill = 1 + 0.09 * np.sin(2 * np.pi * (arc / 3.6 + np.abs(across) * 1.6))
    grain = 1 + 0.05 * cv2.GaussianBlur(rng.standard_normal(distance.shape, np.float32), (0, 0), 0.7)
    # Slow changes of brightness along the strap, as a hanging strap turns in the light.
    turn = 1 + 0.10 * np.sin(arc / 57.0) + 0.05 * np.sin(arc / 23.0 + 1)
    cloth = np.array(leash.colour, np.float32) * (round_off * twill * grain * turn)[..., None]
    seam = np.exp(-(((np.abs(across) - 0.72) / 0.10) ** 2)) * (np.mod(arc, 6.5) < 4.2) * 0.75
    cloth = cloth * (1 - seam[..., None]) + np.array(leash.stitch, np.float32) * (seam * round_off)[..., None]
    # The strap is folded back and sewn where it holds the clip.
    fold = np.exp(-(((arc - leash.clip_px - 26) / 1.6) ** 2))
    cloth *= (1 - 0.45 * fold)[..., None]
    coverage = np.clip(half - np.abs(distance) + 0.5, 0, 1) * np.clip(arc - leash.clip_px + 12 + 0.5, 0, 1)
    return np.clip(cloth, 0, 1).astype(np.float32), coverage.astype(np.float32)


def forge(distance: Field, arc: Field, leash: Leash) -> tuple[NDArray[np.float32], Field]:
    """Colour [H, W, 3] in [0, 1] and coverage [H, W] in [0, 1] of the metal snap hook and its ring."""
    n = leash.clip_px
    hook = _ring(distance, arc, centre=n * 0.30, length=n * 0.26, radius=7.5, wire=2.3)
    barrel = _bar(distance, arc, start=n * 0.60, end=n * 0.82, half=4.2)
    swivel = _ring(distance, arc, centre=n * 0.90, length=n * 0.04, radius=9.5, wire=2.2)
    coverage = np.maximum(np.maximum(hook, barrel), swivel)
    sheen = 0.55 + 0.32 * np.sin(distance / 2.4 + 2.2) + 0.13 * np.sin(arc / 5.0)
    steel = np.clip(sheen, 0.16, 1)[..., None] * np.array(LIGHT_RGB, np.float32)
    return steel.astype(np.float32), coverage


def _ring(distance: Field, arc: Field, *, centre: float, length: float, radius: float, wire: float) -> Field:
    beyond = np.maximum(np.abs(arc - centre) - length / 2, 0)
    coverage: Field = np.clip(wire - np.abs(np.hypot(beyond, distance) - radius) + 0.5, 0, 1).astype(np.float32)
    return coverage


def _bar(distance: Field, arc: Field, *, start: float, end: float, half: float) -> Field:
    ends = np.clip(np.minimum(arc - start, end - arc) + 0.5, 0, 1)
    coverage: Field = (np.clip(half - np.abs(distance) + 0.5, 0, 1) * ends).astype(np.float32)
    return coverage


def draw_leash(photo: NDArray[np.uint8], leash: Leash) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The photo [H, W, 3] uint8 RGB with a leash on it, and the mask [H, W] uint8 (255 = edit) that covers it."""
    height, width = photo.shape[:2]
    rng = np.random.default_rng(SEED)
    distance, arc = trace(leash.curve, height, width)
    cloth, strap = weave(distance, arc, leash, rng)
    steel, metal = forge(distance, arc, leash)
    # The hook's tip lies under the hair.
    metal = metal * np.clip((arc + 2) / 8, 0, 1)
    covered = np.maximum(strap, metal)
    move = np.array([[1, 0, SHADOW_OFFSET_PX[0]], [0, 1, SHADOW_OFFSET_PX[1]]], np.float32)
    shadow = cv2.GaussianBlur(cv2.warpAffine(covered, move, (width, height)), (0, 0), SHADOW_BLUR_PX) * SHADOW_DEPTH
    scene = photo.astype(np.float32) / 255 * (1 - shadow[..., None])
    for colour, coverage in ((cloth, strap), (steel, metal)):
        soft = cv2.GaussianBlur(coverage, (0, 0), 0.6)[..., None]  # no lens draws a perfectly sharp edge
        scene = scene * (1 - soft) + cv2.GaussianBlur(colour, (0, 0), 0.5) * soft
    scene += 0.012 * rng.standard_normal(scene.shape, np.float32) * covered[..., None]  # the sensor's noise
    touched = ((covered > 0) | (shadow > 0.02)).astype(np.uint8) * 255
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * MASK_MARGIN_PX + 1,) * 2)
    return np.clip(scene * 255 + 0.5, 0, 255).astype(np.uint8), cv2.dilate(touched, brush)


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: python -m bench.sample PHOTO OUT", file=sys.stderr)
        return 2
    out = Path(arguments[1])
    out.mkdir(parents=True, exist_ok=True)
    photo = np.asarray(PillowImage.open(arguments[0]).convert("RGB"))
    leashed, mask = draw_leash(photo, Leash())
    PillowImage.fromarray(leashed).save(out / "original.jpg", quality=95)
    PillowImage.fromarray(mask).save(out / "mask_auto.png", optimize=True)
    PillowImage.fromarray(photo).save(out / "ground_truth.jpg", quality=90)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
