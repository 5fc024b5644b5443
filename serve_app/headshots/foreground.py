"""The subject's own colours where it mixes with the background, so that none of that shows on another one.

Germer et al., "Fast Multi-Level Foreground Estimation", ICPR 2020, by pymatting on the photo at a bounded size; the
last level, from there to the photo's own size, is solved here for the pixels at the edge alone.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from serve_app.headshots.compiled import estimate_foreground_ml
from serve_app.headshots.matting import Alpha, Rgb

BASE_PX = 1536  # long edge that pymatting sees: there it takes half a second and 100 MB
STRIP_PX = 256  # rows at a time: floating point for them alone


def estimate_foreground(image: Rgb, alpha: Alpha) -> Rgb:
    """Colours of the subject [H, W, 3] uint8 RGB: the photo's where `alpha` [H, W] is 1, elsewhere unmixed.

    Where alpha is 0 they are the nearest subject's, spread smoothly, so that shrinking the picture later draws in
    nothing of the background. Without any subject the photo comes back as it is.
    """
    if not (alpha > 0).any():
        return image.copy()
    height, width = alpha.shape
    foreground, background = _estimate_small(image, alpha)
    result = np.empty_like(image)
    front = cv2.resize(foreground, (width, height), interpolation=cv2.INTER_LINEAR)
    behind = cv2.resize(background, (width, height), interpolation=cv2.INTER_LINEAR)
    for top in range(0, height, STRIP_PX):
        rows = np.s_[top : top + STRIP_PX]
        result[rows] = _unmix(image[rows], alpha[rows], front[rows], behind[rows])
    return result


def _estimate_small(image: Rgb, alpha: Alpha) -> tuple[Rgb, Rgb]:
    height, width = alpha.shape
    scale = min(1.0, BASE_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if scale < 1:
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        alpha = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
    if max(size) == 1:  # pymatting divides by the number of levels, which is 0 for a single pixel
        return image, image
    estimate = estimate_foreground_ml(image / np.float32(255), alpha, return_background=True)
    front, behind = (np.clip(part * 255 + 0.5, 0, 255).astype(np.uint8) for part in estimate)
    return front, behind


def _unmix(image: Rgb, alpha: Alpha, front: Rgb, behind: Rgb) -> Rgb:
    """The colours nearest to `front`, where those of the background may differ from `behind` as well, that mix to the
    photo's: least squares, as at every level of the method."""
    edge = (alpha > 0) & (alpha < 1)
    share = alpha[edge][:, None]
    near: NDArray[np.float32] = front[edge].astype(np.float32)
    missing = image[edge] - share * near - (1 - share) * behind[edge]
    near += share * missing / (share**2 + (1 - share) ** 2)
    result = np.where((alpha >= 1)[..., None], image, front)
    result[edge] = np.clip(near + 0.5, 0, 255).astype(np.uint8)
    return result
