"""What an engine checks at its door and at its exit."""

from __future__ import annotations

import cv2
import numpy as np

from serve_app.engines.protocol import Crop, Image
from serve_app.errors import EngineFailed, EngineRejected

MAX_PIXELS = 2**20
RING_PX = 8  # what lies this near to the hole says which colours its filling can have
ODD_LEVELS = 64  # a flat filling this far (of 255) from everything around it is a broken output, not a plain wall


def check_crop(crop: Crop) -> None:
    """Raises `EngineRejected` unless image and mask fit each other and are small enough; any sides will do."""
    image, mask = crop.image, crop.mask
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise EngineRejected(f"a crop's image is {image.dtype} {image.shape}; it must be uint8 [H, W, 3]")
    if mask.dtype != np.uint8 or mask.shape != image.shape[:2]:
        raise EngineRejected(f"a crop's mask is {mask.dtype} {mask.shape}; it must be uint8 {image.shape[:2]}")
    if not 0 < mask.size <= MAX_PIXELS:
        raise EngineRejected(f"a crop has {mask.size} pixels; 1 to {MAX_PIXELS} are accepted")


def check_output(crop: Crop, image: Image) -> None:
    """Raises `EngineFailed` when the output cannot be a picture of this crop: wrong shape or type, or gone flat."""
    if image.shape != crop.image.shape or image.dtype != np.uint8:
        raise EngineFailed(f"the model gave {image.dtype} {image.shape} for a crop of uint8 {crop.image.shape}")
    edit = crop.mask == 255
    if not edit.any():
        return
    filled = image[edit]
    if (filled != filled[0]).any():
        return
    brush = np.ones((2 * RING_PX + 1, 2 * RING_PX + 1), np.uint8)
    ring = crop.image[(cv2.dilate(edit.astype(np.uint8), brush) > 0) & ~edit]
    # Not-a-number becomes one flat colour when it is cast to uint8. A plain wall is flat too, but in its own colour.
    if ring.size and np.abs(ring.astype(np.int16) - filled[0]).max(axis=1).min() > ODD_LEVELS:
        raise EngineFailed(f"the model filled the hole with the flat colour {filled[0].tolist()}")
