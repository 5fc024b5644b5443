"""What a photo file says besides its pixels: orientation, EXIF, profile, subsampling."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

Pixels = NDArray[np.uint8]

_LONGEST_SEGMENT = 65_533  # bytes in one JPEG segment after its length
_EXIF_MARK = b"Exif\0\0"
_ICC_MARK = b"ICC_PROFILE\0"
_ORIENTATION = 0x0112  # EXIF tag
_MIRRORED = (2, 4, 5, 7)  # EXIF orientations that are mirrored first, then turned
_ROTATIONS = {
    3: cv2.ROTATE_180,
    4: cv2.ROTATE_180,
    5: cv2.ROTATE_90_COUNTERCLOCKWISE,
    6: cv2.ROTATE_90_CLOCKWISE,
    7: cv2.ROTATE_90_CLOCKWISE,
    8: cv2.ROTATE_90_COUNTERCLOCKWISE,
}


def read_orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 where there is none or it makes no sense."""
    value = image.getexif().get(_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def write_upright_exif(image: Image.Image) -> bytes | None:
    """EXIF with the orientation reset; Pillow leaves the embedded thumbnail out, which would still show the leash."""
    exif = image.getexif()
    if not exif:
        return None
    if _ORIENTATION in exif:
        exif[_ORIENTATION] = 1
    try:
        return exif.tobytes()
    except Exception:  # a malformed tag must not cost the caller the edit; Pillow raises struct.error, TypeError …
        return None


def turn(pixels: Pixels, orientation: int) -> Pixels:
    """Stored pixels upright, by an EXIF orientation 1..8 (Exif 2.32, tag 0x0112)."""
    if orientation in _MIRRORED:
        pixels = np.asarray(cv2.flip(pixels, 1), np.uint8)
    rotation = _ROTATIONS.get(orientation)
    return pixels if rotation is None else np.asarray(cv2.rotate(pixels, rotation), np.uint8)


def _exif_segments(exif: bytes | None) -> list[bytes]:
    if exif is None:
        return []
    marked = exif if exif.startswith(_EXIF_MARK) else _EXIF_MARK + exif
    if len(marked) > _LONGEST_SEGMENT:
        return []
    return [b"\xff\xe1" + (len(marked) + 2).to_bytes(2, "big") + marked]


def _icc_segments(profile: bytes | None) -> list[bytes]:
    """APP2 segments, numbered from 1, as ICC.1:2022 Annex B.4 lays a profile into a JPEG."""
    if profile is None:
        return []
    room = _LONGEST_SEGMENT - len(_ICC_MARK) - 2
    parts = [profile[start : start + room] for start in range(0, len(profile), room)]
    if len(parts) > 255:
        return []
    marked = [_ICC_MARK + bytes([i, len(parts)]) + part for i, part in enumerate(parts, start=1)]
    return [b"\xff\xe2" + (len(part) + 2).to_bytes(2, "big") + part for part in marked]


def insert_metadata(jpeg: bytes, exif: bytes | None, icc_profile: bytes | None) -> bytes:
    """A JPEG file with EXIF and profile behind the JFIF header, which stays the first segment (T.871, clause 10).

    EXIF too long for a segment is left out, and so is a profile too long for 255 of them.
    """
    segments = [*_exif_segments(exif), *_icc_segments(icc_profile)]
    if not segments:
        return jpeg
    end = 2  # behind the start-of-image marker
    if jpeg[2:4] == b"\xff\xe0":
        end = 4 + int.from_bytes(jpeg[4:6], "big")
    return b"".join([jpeg[:end], *segments, jpeg[end:]])


def choose_subsampling(image: Image.Image) -> str:
    """4:2:0 for JPEGs that have no finer chroma (or none at all), 4:4:4 for everything else."""
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return "4:4:4"
    return "4:4:4" if JpegImagePlugin.get_sampling(image) in (0, 1) else "4:2:0"
