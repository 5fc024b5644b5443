"""Deterministic photos and masks for benchmarks: files as the app would upload them, the same on every machine."""

from __future__ import annotations

import io

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Feature size in pixels → contrast. All scales together look and compress like fur and grass, about 4 bits per pixel.
_OCTAVES = ((1, 5), (2, 9), (4, 12), (8, 14), (32, 18), (128, 25))


def detailed_photo(width: int, height: int, seed: int = 0, subsampling: str = "4:2:0") -> bytes:
    """A JPEG (quality 92) with texture at every scale; a smooth one would make decoding look cheap."""
    random = np.random.default_rng(seed)
    total = np.full((height, width, 3), 115, np.float32)
    for scale, contrast in _OCTAVES:
        coarse = random.standard_normal((height // scale + 2, width // scale + 2, 3), dtype=np.float32) * contrast
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    out = io.BytesIO()
    Image.fromarray(total.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=92, subsampling=subsampling)
    return out.getvalue()


def leash_mask(width: int, height: int, seed: int = 0, share: float = 0.5) -> bytes:
    """A PNG with one long thin curve whose bounding box is about `share` of the photo's area."""
    random = np.random.default_rng(seed)
    across, down = width * share**0.5, height * share**0.5
    left, top = random.uniform(0, width - across), random.uniform(0, height - down)
    t = np.linspace(0, 1, 60)
    sag = random.uniform(-0.25, 0.25)
    y = t + sag * np.sin(np.pi * t)
    y = (y - y.min()) / (y.max() - y.min())
    if random.random() < 0.5:
        y = 1 - y
    line = np.stack([left + t * across, top + y * down], axis=1).round().astype(np.int32)
    return _png(_stroke(line, width, height))


def clip_mask(width: int, height: int, seed: int = 0) -> bytes:
    """A PNG with one compact blob of about 4 % of the long edge: a harness clip."""
    random = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    reach = max(1, round(0.02 * max(width, height)))
    centre = (int(random.uniform(0.1, 0.9) * width), int(random.uniform(0.1, 0.9) * height))
    cv2.ellipse(mask, centre, (reach, max(1, reach * 2 // 3)), float(random.uniform(0, 180)), 0, 360, 255, -1)
    return _png(mask)


def whole_mask(width: int, height: int) -> bytes:
    """A PNG that is white all over: the crop is the photo, and every such job costs the same."""
    return _png(np.full((height, width), 255, np.uint8))


def _stroke(line: NDArray[np.int32], width: int, height: int) -> NDArray[np.uint8]:
    mask = np.zeros((height, width), np.uint8)
    cv2.polylines(mask, [line], False, 255, max(1, round(0.01 * max(width, height))))
    return mask


def _png(mask: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(mask).save(out, "PNG")
    return out.getvalue()
