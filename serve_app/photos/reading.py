"""Image files up to their pixels: which are taken, how large they may be, and what is wrong with the others.

Limits are checked on the header, before any pixel is decoded. What Pillow and libheif raise is translated here.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError
from pillow_heif import HeifImageFile

from serve_app.errors import PawfectError, PhotoTooLarge
from serve_app.photos.media_types import find_headshot_type
from serve_app.settings_sections import PhotoSettings

EDIT_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")  # MPO, several JPEGs in one file, is opened as JPEG
HEADSHOT_FORMATS = ("JPEG", "PNG", "WEBP", "HEIF")

_START_OF_SCAN = b"\xff\xda"  # a marker; in the data itself a 0xff is followed by a zero
_MOST_SCANS = 200  # encoders write about ten, and each costs one pass over the whole photo however small the file is


def open_image(data: bytes, limits: PhotoSettings, name: str, formats: tuple[str, ...]) -> Image.Image:
    """The header only. Raises PhotoTooLarge, and what the format's own parser does: call it within `translated`."""
    if len(data) > limits.max_bytes:
        raise PhotoTooLarge(f"{name} has {len(data)} bytes; at most {limits.max_bytes} are accepted.")
    image = _identify(data, limits, name, formats)
    if image.width * image.height > limits.max_pixels:
        raise PhotoTooLarge(
            f"{name} is {image.width} × {image.height} pixels; at most {limits.max_pixels} pixels are accepted."
        )
    if image.info.get("progressive") and data.count(_START_OF_SCAN) > _MOST_SCANS:
        raise PhotoTooLarge(
            f"{name} is a progressive JPEG of more than {_MOST_SCANS} scans, which would take minutes to decode."
        )
    return image


def _identify(data: bytes, limits: PhotoSettings, name: str, formats: tuple[str, ...]) -> Image.Image:
    if "HEIF" in formats and find_headshot_type(data) == "image/heic":
        # Opened by hand: registered with Pillow, it would be known to everybody in the process. How it is turned, the
        # container alone says (ISO/IEC 23008-12, 6.5.10): libheif has done so, and pillow-heif sets the orientation in
        # its EXIF to 1. That the pixels are no more than the header says is held by libheif's own limits.
        return HeifImageFile(io.BytesIO(data))  # type: ignore[no-untyped-call]
    try:
        return Image.open(io.BytesIO(data), formats=[kind for kind in formats if kind != "HEIF"])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoTooLarge(f"{name} has too many pixels; at most {limits.max_pixels} are accepted.") from error


@contextmanager
def translated(kind: type[PawfectError], name: str, accepted: str) -> Iterator[None]:
    """Whatever a parser raises becomes `kind`; `accepted` says what to send instead."""
    try:
        yield
    except (PawfectError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise kind(f"{name} is not an image this service reads; {accepted}.") from error
    except Exception as error:  # Pillow's plugins raise whatever their parser met: OSError, SyntaxError, struct.error …
        reason = " ".join(str(error).split()).rstrip(".")
        raise kind(f"{name} is cut off or damaged ({reason}); {accepted}.") from error
