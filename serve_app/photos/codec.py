"""Bytes ↔ pixels: which files are taken, how large they may be, and what becomes of orientation, profile and EXIF.

Pillow does the work and everything it raises is translated here. Limits are checked on the header, before any pixel is
decoded. `decode_photo` gives an array; the editing hot path uses `open_photo`, whose frames stay in Pillow's own memory
because turning a whole 12-megapixel frame into an array and back costs as much as decoding it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageCms, JpegImagePlugin, UnidentifiedImageError

from serve_app.errors import MaskUnreadable, PawfectError, PhotoTooLarge, PhotoUnreadable
from serve_app.settings import PhotoSettings

Pixels = NDArray[np.uint8]

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")  # MPO, several JPEGs in one file, is opened as JPEG
_ACCEPTED_PHOTO = "send a JPEG, PNG, WebP or GIF photo"
_ACCEPTED_MASK = "send a PNG (or JPEG, WebP, GIF) in which white marks what to remove"
_LONGEST_EDGE = 65_500  # pixels; libjpeg writes no longer edge, and every result is a JPEG
_LONGEST_EXIF = 65_533 - 6  # bytes in one APP1 segment after its length and "Exif\0\0"
_ORIENTATION = 0x0112  # EXIF tag
_STRIP = 64  # rows; a strip of a 12-megapixel photo stays in the processor's cache
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """`pixels` uint8 [H, W, 3] RGB, upright; `exif` has its orientation reset; `subsampling` is what to encode with."""

    pixels: Pixels
    icc_profile: bytes | None
    exif: bytes | None
    subsampling: str = "4:2:0"


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A decoded photo in Pillow's memory: `image` is RGB and upright, possibly smaller than the photo."""

    image: Image.Image
    icc_profile: bytes | None
    exif: bytes | None
    subsampling: str


class PhotoFile:
    """An opened photo whose header has passed the limits: `width` and `height` are upright, in pixels.

    `orientation` is the EXIF value 1..8 of the stored pixels. Decodes once: the object is good for one `decode`.
    """

    def __init__(self, image: Image.Image, name: str) -> None:
        self._image = image
        self._name = name
        with _unreadable_photo(name):
            self.orientation = _orientation(image)
        width, height = image.size
        self.width, self.height = (height, width) if self.orientation >= 5 else (width, height)

    def decode(self, scale: float = 1.0) -> Frame:
        """Decode to RGB. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is still at least `scale` of it.

        Raises PhotoUnreadable when the data is cut off or broken.
        """
        image = self._image
        with _unreadable_photo(self._name):
            if scale < 1 and image.mode in ("RGB", "L"):
                image.draft(None, (int(image.width * scale), int(image.height * scale)))
            image.load()
            exif = _upright_exif(image)
            subsampling = _subsampling(image)
            rgb, icc = _rgb(image)
            turn = _TRANSPOSITIONS.get(self.orientation)
            return Frame(rgb if turn is None else rgb.transpose(turn), icc, exif, subsampling)


def open_photo(data: bytes, limits: PhotoSettings, name: str = "original.jpg") -> PhotoFile:
    """Read the header only. Raises PhotoTooLarge and PhotoUnreadable."""
    with _unreadable_photo(name):
        image = _open(data, limits, name)
        if max(image.size) > _LONGEST_EDGE:
            raise PhotoTooLarge(
                f"{name} is {image.width} × {image.height} pixels; an edge may be {_LONGEST_EDGE} pixels long at most"
            )
    return PhotoFile(image, name)


def decode_photo(data: bytes, limits: PhotoSettings, name: str = "original.jpg") -> Photo:
    """Decode a JPEG, PNG, WebP or GIF (told by content, not by name) to upright 8-bit RGB.

    16-bit samples are scaled, transparency is laid on white, of an animation the first frame counts. CMYK goes to sRGB
    through its own profile, and that profile is dropped, as is a grey one; an RGB profile is kept and pixels stay in
    its space. Raises PhotoTooLarge and PhotoUnreadable.
    """
    frame = open_photo(data, limits, name).decode()
    return Photo(pixels_of(frame.image), frame.icc_profile, frame.exif, frame.subsampling)


def decode_mask(data: bytes, limits: PhotoSettings, name: str = "mask_auto.png") -> Pixels:
    """Decode a mask to grey uint8 [H, W], 0..255, upright by its own EXIF orientation.

    Alpha weakens a pixel: opaque white is 255, a fully transparent pixel is 0 (not edited) whatever its colour. Colours
    count by their luma. Raises PhotoTooLarge and MaskUnreadable.
    """
    with _translated(MaskUnreadable, name, _ACCEPTED_MASK):
        image = _open(data, limits, name)
        image.load()
        turn = _TRANSPOSITIONS.get(_orientation(image))
        grey = _mask_grey(image)
        if turn is not None:
            grey = grey.transpose(turn)
        return pixels_of(grey)


def encode_photo(
    pixels: Pixels | Image.Image,
    icc_profile: bytes | None,
    exif: bytes | None,
    quality: int,
    subsampling: str = "4:2:0",
) -> bytes:
    """Encode RGB uint8 [H, W, 3] as a baseline JPEG of unchanged size.

    `subsampling` should be the original's own (`Photo.subsampling`): a 4:2:0 original has no more chroma to lose, and
    4:4:4 would cost 50 % more CPU and a third more bytes for nothing; a 4:4:4 or PNG original would visibly lose
    coloured edges at 4:2:0. EXIF too long for a JPEG segment is left out.
    """
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    out = io.BytesIO()
    kept = exif if exif is not None and len(exif) <= _LONGEST_EXIF else b""
    image.save(out, "JPEG", quality=quality, subsampling=subsampling, icc_profile=icc_profile, exif=kept)
    return out.getvalue()


def encode_preview(pixels: Pixels | Image.Image, icc_profile: bytes | None, long_edge: int, quality: int) -> bytes:
    """Encode RGB uint8 [H, W, 3] as a JPEG whose long edge is at most `long_edge` pixels; never enlarged, no EXIF."""
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    scale = long_edge / max(image.size)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        # The gap lets Pillow average whole blocks first: 11 ms instead of 69 ms at 12 megapixels, and looks the same.
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=1.0)
    return encode_photo(image, icc_profile, None, quality)


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
        raise PhotoTooLarge(f"{name} has {len(data)} bytes; at most {limits.max_bytes} are accepted")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoTooLarge(f"{name} has too many pixels; at most {limits.max_pixels} are accepted") from error
    if image.width * image.height > limits.max_pixels:
        raise PhotoTooLarge(
            f"{name} is {image.width} × {image.height} pixels; at most {limits.max_pixels} pixels are accepted"
        )
    return image


@contextmanager
def _translated(kind: type[PawfectError], name: str, accepted: str) -> Iterator[None]:
    try:
        yield
    except (PawfectError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise kind(f"{name} is not an image this service reads; {accepted}") from error
    except Exception as error:  # Pillow's plugins raise whatever their parser met: OSError, SyntaxError, struct.error …
        raise kind(f"{name} is cut off or damaged ({error}); {accepted}") from error


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


def _subsampling(image: Image.Image) -> str:
    """4:2:0 for JPEGs that have no finer chroma (or none at all), 4:4:4 for everything else."""
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return "4:4:4"
    return "4:4:4" if JpegImagePlugin.get_sampling(image) in (0, 1) else "4:2:0"


# -- colour ----------------------------------------------------------------------------------------------------------


def _rgb(image: Image.Image) -> tuple[Image.Image, bytes | None]:
    """8-bit RGB, and the profile that still describes it."""
    icc: bytes | None = image.info.get("icc_profile")
    if image.mode == "CMYK":  # Pillow has undone Adobe's inversion
        return _from_cmyk(image, icc), None
    if icc is not None and icc[16:20] != b"RGB ":  # colour space field of the ICC header (ICC.1:2022, 7.2.6)
        icc = None
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
