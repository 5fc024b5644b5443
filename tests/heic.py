"""HEIC files, made by libheif's own encoder, and what their boxes say."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pillow_heif
from PIL import Image


def encode_heic(*images: Image.Image, **options: Any) -> bytes:
    """The first one is the primary. `bit_depth` of 10 or 12 takes the 8-bit images' samples scaled."""
    bit_depth = options.pop("bit_depth", 8)
    file = pillow_heif.HeifFile()
    for image in images:
        if bit_depth == 8:
            file.add_from_pillow(image)
        else:
            wide = np.asarray(image).astype(np.uint16) * 257
            file.add_frombytes(f"{image.mode};16", image.size, wide.tobytes())
    before = pillow_heif.options.SAVE_HDR_TO_12_BIT
    pillow_heif.options.SAVE_HDR_TO_12_BIT = bit_depth == 12
    out = io.BytesIO()
    try:
        file.save(out, **{"quality": 95, "chroma": 444, "primary_index": 0, **options})
    finally:
        pillow_heif.options.SAVE_HDR_TO_12_BIT = before
    return out.getvalue()


def claim_size(heic: bytes, width: int, height: int) -> bytes:
    """The same file with a header that says another size (box ispe, ISO/IEC 23008-12, 6.5.3)."""
    position = heic.index(b"ispe") + 8
    return heic[:position] + struct.pack(">II", width, height) + heic[position + 8 :]


def set_rotation(heic: bytes, quarters: int) -> bytes:
    """The same file, turned by the container counter-clockwise (box irot, ISO/IEC 23008-12, 6.5.10)."""
    position = heic.index(b"irot") + 4
    return heic[:position] + bytes([quarters]) + heic[position + 1 :]
