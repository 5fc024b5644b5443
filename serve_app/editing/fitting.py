"""Whole pictures at sizes a model takes: both sides multiples of 16, at most one megapixel."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from serve_app.photos.codec import shrink

SIDE_PX = 16
LEAST_PX = 256  # FLUX is poor below
MEGAPIXEL = 2**20


def fit_size(width: int, height: int, max_megapixels: float) -> tuple[int, int]:
    """The size nearest in proportion to `width` × `height` photo pixels with at most `max_megapixels` (in 2²⁰ pixels,
    at most 1). The photo is enlarged only while its shorter side is below 256 and there is area left."""
    area = min(max_megapixels, 1.0) * MEGAPIXEL
    most = (area / (width * height)) ** 0.5
    scale = min(most, max(1.0, LEAST_PX / min(width, height)))
    sides = [max(SIDE_PX, round(side * scale / SIDE_PX) * SIDE_PX) for side in (width, height)]
    while sides[0] * sides[1] > area:
        sides[sides.index(max(sides))] -= SIDE_PX
    return sides[0], sides[1]


def fit_image(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """RGB uint8 [H, W, 3] → [height, width, 3]: its middle, as large as the proportions allow, scaled."""
    rows, columns = pixels.shape[:2]
    scale = max(width / columns, height / rows)
    across, down = min(columns, round(width / scale)), min(rows, round(height / scale))
    left, top = (columns - across) // 2, (rows - down) // 2
    middle = pixels[top : top + down, left : left + across]
    if scale <= 1:
        return shrink(np.ascontiguousarray(middle), (width, height))
    return np.asarray(cv2.resize(middle, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
