"""Bytes ↔ pixels: which files are taken, how large they may be, and what becomes of orientation, profile and EXIF.

Pillow reads every header and knows every format; what it raises is translated here. Limits are checked on the header,
before any pixel is decoded. The common JPEG, three components, is decoded and encoded by simplejpeg: the same
libjpeg-turbo and the same pixels, straight into an array, where Pillow's own memory has four bytes per pixel and costs
two more copies of the frame.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageCms, JpegImagePlugin, UnidentifiedImageError

from serve_app.errors import MaskUnreadable, PawfectError, PhotoTooLarge, PhotoUnreadable
from serve_app.settings import PhotoSettings

Pixels = NDArray[np.uint8]

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")  # MPO, several JPEGs in one file, is opened as JPEG
_ACCEPTED_PHOTO = "send a JPEG, PNG, WebP or GIF photo"
_ACCEPTED_MASK = "send a PNG (or JPEG, WebP, GIF) in which white marks what to remove"
_LONGEST_EDGE = 65_500  # pixels; libjpeg writes no longer edge, and every result is a JPEG
_LONGEST_SEGMENT = 65_533  # bytes in one JPEG segment after its length
_START_OF_SCAN = b"\xff\xda"  # a marker; in the data itself a 0xff is followed by a zero
_MOST_SCANS = 200  # encoders write about ten, and each costs one pass over the whole photo however small the file is
_EXIF_MARK = b"Exif\0\0"
_ICC_MARK = b"ICC_PROFILE\0"
_ORIENTATION = 0x0112  # EXIF tag
_STRIP = 64  # rows; a strip of a 12-megapixel photo stays in the processor's cache
_MIRRORED = (2, 4, 5, 7)  # EXIF orientations that are mirrored first, then turned
_ROTATIONS = {
    3: cv2.ROTATE_180,
    4: cv2.ROTATE_180,
    5: cv2.ROTATE_90_COUNTERCLOCKWISE,
    6: cv2.ROTATE_90_CLOCKWISE,
    7: cv2.ROTATE_90_CLOCKWISE,
    8: cv2.ROTATE_90_COUNTERCLOCKWISE,
}


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """`pixels` uint8 [H, W, 3] RGB, upright; `exif` has its orientation reset; `subsampling` is what to encode with."""

    pixels: Pixels
    icc_profile: bytes | None
    exif: bytes | None
    subsampling: str = "4:2:0"


class PhotoFile:
    """An opened photo whose header has passed the limits: `width` and `height` are upright, in pixels.

    `orientation` is the EXIF value 1..8 of the stored pixels. Decodes once: the object is good for one `decode`.
    """

    def __init__(self, data: bytes, image: Image.Image, name: str) -> None:
        self._data = data
        self._image = image
        self._name = name
        with _unreadable_photo(name):
            self.orientation = _orientation(image)
        width, height = image.size
        self.width, self.height = (height, width) if self.orientation >= 5 else (width, height)

    def decode(self) -> Photo:
        """Raises PhotoUnreadable when the data is cut off or broken."""
        with _unreadable_photo(self._name):
            pixels = self._decode_plainly()
            icc = _rgb_profile(self._image)
            if pixels is None:
                pixels, icc = self._decode_anything()
            return Photo(_turn(pixels, self.orientation), icc, _upright_exif(self._image), _subsampling(self._image))

    def _decode_plainly(self) -> Pixels | None:
        """The stored pixels of a three-component JPEG; None for any other file, and for one libjpeg complains about."""
        if not isinstance(self._image, JpegImagePlugin.JpegImageFile) or self._image.mode != "RGB":
            return None
        try:
            pixels: Pixels = simplejpeg.decode_jpeg(self._data, "RGB")
        except ValueError:
            return None  # Pillow tells what can be overlooked from what is cut off
        return pixels

    def _decode_anything(self) -> tuple[Pixels, bytes | None]:
        self._image.load()
        image, icc = _rgb(self._image)
        return pixels_of(image), icc


def open_photo(data: bytes, limits: PhotoSettings, name: str = "original.jpg") -> PhotoFile:
    """Read the header only. Raises PhotoTooLarge and PhotoUnreadable."""
    with _unreadable_photo(name):
        image = _open(data, limits, name)
        if max(image.size) > _LONGEST_EDGE:
            raise PhotoTooLarge(
                f"{name} is {image.width} × {image.height} pixels; an edge may be {_LONGEST_EDGE} pixels long at most."
            )
    return PhotoFile(data, image, name)


def decode_photo(data: bytes, limits: PhotoSettings, name: str = "original.jpg") -> Photo:
    """Decode a JPEG, PNG, WebP or GIF (told by content, not by name) to upright 8-bit RGB.

    16-bit samples are scaled, transparency is laid on white, of an animation the first frame counts. CMYK goes to sRGB
    through its own profile, and that profile is dropped, as is a grey one; an RGB profile is kept and pixels stay in
    its space. Raises PhotoTooLarge and PhotoUnreadable.
    """
    return open_photo(data, limits, name).decode()


def decode_mask(data: bytes, limits: PhotoSettings, name: str = "mask_auto.png") -> Pixels:
    """Decode a mask to grey uint8 [H, W], 0..255, upright by its own EXIF orientation.

    Alpha weakens a pixel: opaque white is 255, a fully transparent pixel is 0 (not edited) whatever its colour. Colours
    count by their luma. Raises PhotoTooLarge and MaskUnreadable.
    """
    with _translated(MaskUnreadable, name, _ACCEPTED_MASK):
        image = _open(data, limits, name)
        image.load()
        return _turn(pixels_of(_mask_grey(image)), _orientation(image))


def encode_photo(
    pixels: Pixels, icc_profile: bytes | None, exif: bytes | None, quality: int, subsampling: str = "4:2:0"
) -> bytes:
    """Encode RGB uint8 [H, W, 3] as a baseline JPEG of unchanged size.

    `subsampling` should be the original's own (`Photo.subsampling`): a 4:2:0 original has no more chroma to lose, and
    4:4:4 would cost 50 % more CPU and a third more bytes for nothing; a 4:4:4 or PNG original would visibly lose
    coloured edges at 4:2:0. EXIF too long for a JPEG segment is left out.
    """
    pixels = np.ascontiguousarray(pixels)
    jpeg = simplejpeg.encode_jpeg(pixels, quality=quality, colorsubsampling=subsampling.replace(":", ""))
    return _insert_segments(jpeg, [*_exif_segments(exif), *_icc_segments(icc_profile)])


def encode_preview(pixels: Pixels, icc_profile: bytes | None, long_edge: int, quality: int) -> bytes:
    """Encode RGB uint8 [H, W, 3] as a JPEG whose long edge is at most `long_edge` pixels; never enlarged, no EXIF."""
    height, width = pixels.shape[:2]
    scale = long_edge / max(width, height)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = shrink(pixels, size)
    return encode_photo(pixels, icc_profile, None, quality)


def shrink(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize RGB uint8 [H, W, 3] to (width, height): halved while both sides leave enough, then bilinear.

    A fifth of the time of averaging at once, and looks the same. A side that grows is bilinear, too.
    """
    while min(pixels.shape[1] // size[0], pixels.shape[0] // size[1]) >= 2:
        half = (pixels.shape[1] // 2, pixels.shape[0] // 2)
        # An odd last row or column is cut, so that every pixel is the mean of exactly four.
        pixels = np.asarray(
            cv2.resize(pixels[: half[1] * 2, : half[0] * 2], half, interpolation=cv2.INTER_AREA), np.uint8
        )
    left = max(pixels.shape[1] / size[0], pixels.shape[0] / size[1])
    # Up to a factor of two bilinear sampling still meets every pixel; one side of a panorama may have more to go.
    way = cv2.INTER_AREA if left > 2 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, size, interpolation=way), np.uint8)


def pixels_of(image: Image.Image) -> Pixels:
    """The pixels of an L or RGB image as uint8 [H, W] or [H, W, 3]; a copy.

    Strip by strip: Pillow's own way to an array goes through two more copies of the whole frame.
    """
    bands = len(image.getbands())
    pixels = np.empty((image.height, image.width, bands), np.uint8)
    for top in range(0, image.height, _STRIP):
        bottom = min(image.height, top + _STRIP)
        strip = image.crop((0, top, image.width, bottom))
        pixels[top:bottom] = np.frombuffer(strip.tobytes(), np.uint8).reshape(bottom - top, image.width, bands)
    return pixels[..., 0] if bands == 1 else pixels


# -- reading files ---------------------------------------------------------------------------------------------------


def _open(data: bytes, limits: PhotoSettings, name: str) -> Image.Image:
    if len(data) > limits.max_bytes:
        raise PhotoTooLarge(f"{name} has {len(data)} bytes; at most {limits.max_bytes} are accepted.")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoTooLarge(f"{name} has too many pixels; at most {limits.max_pixels} are accepted.") from error
    if image.width * image.height > limits.max_pixels:
        raise PhotoTooLarge(
            f"{name} is {image.width} × {image.height} pixels; at most {limits.max_pixels} pixels are accepted."
        )
    if image.info.get("progressive") and data.count(_START_OF_SCAN) > _MOST_SCANS:
        raise PhotoTooLarge(
            f"{name} is a progressive JPEG of more than {_MOST_SCANS} scans, which would take minutes to decode."
        )
    return image


@contextmanager
def _translated(kind: type[PawfectError], name: str, accepted: str) -> Iterator[None]:
    try:
        yield
    except (PawfectError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise kind(f"{name} is not an image this service reads; {accepted}.") from error
    except Exception as error:  # Pillow's plugins raise whatever their parser met: OSError, SyntaxError, struct.error …
        raise kind(f"{name} is cut off or damaged ({error}); {accepted}.") from error


@contextmanager
def _unreadable_photo(name: str) -> Iterator[None]:
    with _translated(PhotoUnreadable, name, _ACCEPTED_PHOTO):
        yield


# -- metadata --------------------------------------------------------------------------------------------------------


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 where there is none or it makes no sense."""
    value = image.getexif().get(_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright_exif(image: Image.Image) -> bytes | None:
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


def _turn(pixels: Pixels, orientation: int) -> Pixels:
    """Stored pixels upright, by an EXIF orientation 1..8 (Exif 2.32, tag 0x0112)."""
    if orientation in _MIRRORED:
        pixels = np.asarray(cv2.flip(pixels, 1), np.uint8)
    rotation = _ROTATIONS.get(orientation)
    return pixels if rotation is None else np.asarray(cv2.rotate(pixels, rotation), np.uint8)


def _exif_segments(exif: bytes | None) -> list[bytes]:
    if exif is None or len(exif) > _LONGEST_SEGMENT:
        return []
    marked = exif if exif.startswith(_EXIF_MARK) else _EXIF_MARK + exif
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


def _insert_segments(jpeg: bytes, segments: list[bytes]) -> bytes:
    """Behind the JFIF header, which stays the first segment (T.871, clause 10)."""
    if not segments:
        return jpeg
    end = 2  # behind the start-of-image marker
    if jpeg[2:4] == b"\xff\xe0":
        end = 4 + int.from_bytes(jpeg[4:6], "big")
    return b"".join([jpeg[:end], *segments, jpeg[end:]])


def _subsampling(image: Image.Image) -> str:
    """4:2:0 for JPEGs that have no finer chroma (or none at all), 4:4:4 for everything else."""
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return "4:4:4"
    return "4:4:4" if JpegImagePlugin.get_sampling(image) in (0, 1) else "4:2:0"


# -- colour ----------------------------------------------------------------------------------------------------------


def _rgb_profile(image: Image.Image) -> bytes | None:
    """The file's profile if it describes RGB: the colour space field of the ICC header (ICC.1:2022, 7.2.6)."""
    icc: bytes | None = image.info.get("icc_profile")
    return icc if icc is not None and icc[16:20] == b"RGB " else None


def _rgb(image: Image.Image) -> tuple[Image.Image, bytes | None]:
    """8-bit RGB, and the profile that still describes it."""
    if image.mode == "CMYK":  # Pillow has undone Adobe's inversion
        return _from_cmyk(image, image.info.get("icc_profile")), None
    icc = _rgb_profile(image)
    if image.mode == "RGB" and not image.has_transparency_data:
        return image, icc
    if image.mode.startswith("I"):
        return _eight_bit(image).convert("RGB"), icc
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        flat = Image.new("RGB", image.size, "white")
        flat.paste(rgba, mask=rgba.getchannel("A"))
        return flat, icc
    return image.convert("RGB"), icc


def _from_cmyk(image: Image.Image, icc: bytes | None) -> Image.Image:
    if icc is not None:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            converted = None  # a broken profile: the plain conversion is what viewers show, too
        if converted is not None:
            return converted
    return image.convert("RGB")


def _eight_bit(image: Image.Image, transparent: int = 255) -> Image.Image:
    """16-bit grey (modes I;16… and I) → L, scaling 65535 to 255; the transparent colour becomes `transparent`."""
    wide = np.asarray(image).astype(np.uint32).clip(0, 65535)
    grey = ((wide * 255 + 32767) // 65535).astype(np.uint8)
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey[wide == key] = transparent
    return Image.fromarray(grey)


def _mask_grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _eight_bit(image, transparent=0)
    if image.has_transparency_data:
        luma, alpha = image.convert("RGBA").convert("LA").split()
        return ImageChops.multiply(luma, alpha)
    return image if image.mode == "L" else image.convert("L")
