"""The headshot as a file: grey, transparent, faded below the head, print and preview.

Files are PNGs of three equal 8-bit channels and alpha, with an sRGB chunk (PNG specification, third edition, 11.3.2.5)
and the gAMA chunk it recommends beside it. Browsers and systems that manage colours read the first, older libraries the
second. Programs that look for an embedded ICC profile only, as print shops may use, take such a file for their working
space, which is sRGB unless somebody changed it; and equal channels are neutral in any RGB space, so that only the tone
curve depends on it. No profile is embedded: it would say the same again, and the specification wants one of the two.
"""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from serve_app.headshots.matting import Alpha
from serve_app.headshots.monochrome import Grey

_PERCEPTUAL = b"\x00"  # rendering intent of the sRGB chunk, meant for photographs
_GAMMA = struct.pack(">I", 45455)  # 1/2.2 in units of 1/100000, as the specification asks for beside sRGB
_PNG_LEVEL = 3  # of 9: a print in a third of a second; 6 takes twice that for 8 % less or 7 % more, 9 ten times that
_CURVE = 0.45  # how much further up the fade reaches at the frame's sides than in its middle: a rounded bust
_FILL_EDGE = 96  # pixels of the small picture transparent pixels are coloured from
_TINY = np.float32(1e-4)


def fade_out(alpha: Alpha, top: float, bottom: float) -> Alpha:
    """Alpha [H, W] that falls smoothly to 0 between two rows, sooner at the sides; rows above `top` are untouched.

    `bottom` ≤ `top` fades nothing; rows from `bottom` on are 0.
    """
    height, width = alpha.shape
    first = int(np.clip(np.ceil(top), 0, height))
    if bottom <= top or first == height:
        return alpha
    rows = np.arange(first, height, dtype=np.float32)[:, None] + 1
    down = (rows - np.float32(top)) / np.float32(max(1, bottom - top))
    across = np.linspace(-1, 1, width, dtype=np.float32)[None]
    way = np.clip(down * (1 + np.float32(_CURVE) * across * across), 0, 1)
    faded = alpha.copy()
    faded[first:] *= 1 - way * way * way * (way * (way * 6 - 15) + 10)  # flat at both ends up to the second derivative
    return faded


def fill_transparent(grey: Grey, alpha: Alpha) -> Grey:
    """Give pixels that 8-bit alpha shows nothing of the subject's tone nearby, so that scaling draws no fringe.

    A viewer that scales colours without their alpha mixes such pixels into the edge.
    """
    height, width = grey.shape
    shrink = max(1.0, max(height, width) / _FILL_EDGE)
    size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
    weight = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
    total = cv2.resize(grey * alpha, size, interpolation=cv2.INTER_AREA)
    reach = 1.0
    tones, known = total.copy(), weight.copy()
    while reach < _FILL_EDGE:  # from near to far: a little of everything counts, the nearest most
        tones += np.float32(1e-3 / reach) * cv2.GaussianBlur(total, (0, 0), reach)
        known += np.float32(1e-3 / reach) * cv2.GaussianBlur(weight, (0, 0), reach)
        reach *= 2
    smooth = cv2.resize(tones / np.maximum(known, _TINY * _TINY), (width, height), interpolation=cv2.INTER_LINEAR)
    hidden = alpha < 0.5 / 255
    return np.where(hidden, np.rint(np.clip(smooth, 0, 255)), grey).astype(np.uint8)


def to_bytes(alpha: Alpha) -> NDArray[np.uint8]:
    """Alpha 0..1 to 8 bits."""
    return np.asarray(np.rint(np.clip(alpha, 0, 1) * 255), np.uint8)


def shrink_premultiplied(grey: Grey, alpha: NDArray[np.uint8], width: int, height: int) -> tuple[Grey, Grey]:
    """Grey and 8-bit alpha [H, W] at a smaller size; tones are averaged by their alpha."""
    size = (width, height)
    weight = alpha.astype(np.float32)
    small = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
    lit = cv2.resize(grey * weight, size, interpolation=cv2.INTER_AREA)
    plain = cv2.resize(grey.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    tones = np.where(small >= 0.5, lit / np.maximum(small, _TINY), plain)
    return np.asarray(np.rint(tones), np.uint8), np.asarray(np.rint(small), np.uint8)


def encode_png(grey: Grey, alpha: NDArray[np.uint8]) -> bytes:
    """A PNG of grey and 8-bit alpha [H, W], tagged sRGB; the same bytes for the same pixels."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add(b"sRGB", _PERCEPTUAL)
    chunks.add(b"gAMA", _GAMMA)
    out = io.BytesIO()
    image = Image.fromarray(cv2.merge([grey, grey, grey, alpha]), "RGBA")
    image.save(out, "PNG", compress_level=_PNG_LEVEL, pnginfo=chunks)
    return out.getvalue()
