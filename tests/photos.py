"""Small photos and masks, made when asked for."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def make_pixels(width: int = 160, height: int = 120, seed: int = 0) -> np.ndarray:
    """Coarse noise, uint8 [H, W, 3] RGB: something a codec changes little."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def make_photo(width: int = 160, height: int = 120, seed: int = 0) -> bytes:
    return encode(Image.fromarray(make_pixels(width, height, seed)), quality=95)


def make_mask(width: int = 160, height: int = 120, box: tuple[int, int, int, int] | None = (40, 30, 100, 50)) -> bytes:
    """White inside `box` (left, top, right, bottom); None for an empty mask."""
    mask = np.zeros((height, width), np.uint8)
    if box is not None:
        mask[box[1] : box[3], box[0] : box[2]] = 255
    return encode(Image.fromarray(mask), "PNG")
