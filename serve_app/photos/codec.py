"""Bytes ↔ pixels: which files are taken, how large they may be, and what becomes of orientation, profile and EXIF.

Pillow reads every header and knows every format. The common JPEG, three components, is decoded and encoded by
simplejpeg: the same libjpeg-turbo and the same pixels, straight into an array, where Pillow's own memory has four bytes
per pixel and costs two more copies of the frame.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin
from PIL.PngImagePlugin import PngInfo

from serve_app import __version__
from serve_app.errors import MaskUnreadable, PhotoTooLarge, PhotoUnreadable
from serve_app.photos.colour import find_rgb_profile, to_mask_grey, to_rgb, to_srgb
from serve_app.photos.mask_convention import MaskConvention
from serve_app.photos.metadata import choose_subsampling, insert_metadata, read_orientation, turn, write_upright_exif
from serve_app.photos.reading import EDIT_FORMATS, HEADSHOT_FORMATS, open_image, translated
from serve_app.settings_sections import PhotoSettings

Pixels = NDArray[np.uint8]

CONTENT_TYPES = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
"""Formats results can be had in."""
_PNG_LEVEL = 3  # of 9: a third of the default's time for a few per cent more bytes
_ACCEPTED_PHOTO = "send a JPEG, PNG, WebP or GIF photo"
_ACCEPTED_HEADSHOT = "send a JPEG, PNG, WebP or HEIC photo"
_ACCEPTED_MASK = "send a PNG (or JPEG, WebP, GIF) in which white marks what to remove"
_LONGEST_EDGE = 65_500  # pixels; libjpeg writes no longer edge, and every result is a JPEG
_STRIP = 64  # rows; a strip of a 12-megapixel photo stays in the processor's cache


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

    def __init__(self, data: bytes, image: Image.Image, name: str, accepted: str = _ACCEPTED_PHOTO) -> None:
        self._data = data
        self._image = image
        self._name = name
        self._accepted = accepted
        with translated(PhotoUnreadable, name, accepted):
            self.orientation = read_orientation(image)
        width, height = image.size
        self.width, self.height = (height, width) if self.orientation >= 5 else (width, height)

    def decode(self) -> Photo:
        """Raises PhotoUnreadable when the data is cut off or broken."""
        with translated(PhotoUnreadable, self._name, self._accepted):
            pixels = self._decode_plainly()
            icc = find_rgb_profile(self._image)
            if pixels is None:
                pixels, icc = self._decode_anything()
            return Photo(
                turn(pixels, self.orientation), icc, write_upright_exif(self._image), choose_subsampling(self._image)
            )

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
        image, icc = to_rgb(self._image)
        return pixels_of(image), icc


def open_photo(data: bytes, limits: PhotoSettings, name: str = "original.jpg") -> PhotoFile:
    """Read the header only. Raises PhotoTooLarge and PhotoUnreadable."""
    return _open(data, limits, name, EDIT_FORMATS, _ACCEPTED_PHOTO)


def _open(data: bytes, limits: PhotoSettings, name: str, formats: tuple[str, ...], accepted: str) -> PhotoFile:
    with translated(PhotoUnreadable, name, accepted):
        image = open_image(data, limits, name, formats)
        if max(image.size) > _LONGEST_EDGE:
            raise PhotoTooLarge(
                f"{name} is {image.width} × {image.height} pixels; an edge may be {_LONGEST_EDGE} pixels long at most."
            )
    return PhotoFile(data, image, name, accepted)


def decode_photo(data: bytes, limits: PhotoSettings, name: str = "original.jpg") -> Photo:
    """Decode a JPEG, PNG, WebP or GIF (told by content, not by name) to upright 8-bit RGB.

    16-bit samples are scaled, transparency is laid on white, of an animation the first frame counts. CMYK goes to sRGB
    through its own profile, and that profile is dropped, as is a grey one; an RGB profile is kept and pixels stay in
    its space. Raises PhotoTooLarge and PhotoUnreadable.
    """
    return open_photo(data, limits, name).decode()


def decode_srgb(data: bytes, limits: PhotoSettings, name: str = "photo") -> Pixels:
    """Decode a JPEG, PNG, WebP or HEIC (told by content, not by name) to upright sRGB uint8 [H, W, 3].

    As `decode_photo`, and the pixels are converted by the file's profile; where that one is broken, they are taken for
    sRGB. HEIC samples of 10 or 12 bits are scaled. Raises PhotoTooLarge and PhotoUnreadable.
    """
    photo = _open(data, limits, name, HEADSHOT_FORMATS, _ACCEPTED_HEADSHOT).decode()
    return photo.pixels if photo.icc_profile is None else to_srgb(photo.pixels, photo.icc_profile)


def decode_mask(
    data: bytes, limits: PhotoSettings, name: str = "mask_auto.png", convention: MaskConvention = "white"
) -> Pixels:
    """Decode a mask to grey uint8 [H, W], 0..255, upright by its own EXIF orientation.

    "white": alpha weakens a pixel; opaque white is 255, a fully transparent pixel is 0 (not edited) whatever its
    colour. "transparent": alpha alone counts; a fully transparent pixel is 255 whatever its colour, an opaque one 0.
    Where no pixel of the file is transparent in the least, it is read by "white" all the same. Colours count by their
    luma. Raises PhotoTooLarge and MaskUnreadable.
    """
    with translated(MaskUnreadable, name, _ACCEPTED_MASK):
        image = open_image(data, limits, name, EDIT_FORMATS)
        image.load()
        return turn(pixels_of(to_mask_grey(image, convention)), read_orientation(image))


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
    return insert_metadata(jpeg, exif, icc_profile)


def encode_image(
    pixels: Pixels,
    icc_profile: bytes | None,
    exif: bytes | None,
    quality: int,
    output_format: str,
    subsampling: str = "4:2:0",
) -> bytes:
    """Encode RGB uint8 [H, W, 3] in one of `CONTENT_TYPES`: jpeg as `encode_photo` does, png and webp (at `quality`)
    with the same profile and EXIF. A PNG names this version in its text chunk `Software`."""
    if output_format == "jpeg":
        return encode_photo(pixels, icc_profile, exif, quality, subsampling)
    out = io.BytesIO()
    metadata = {name: value for name, value in (("icc_profile", icc_profile), ("exif", exif)) if value}
    options: dict[str, Any] = {"quality": quality}
    if output_format == "png":
        options = {"compress_level": _PNG_LEVEL, "pnginfo": PngInfo()}
        # During a rollout two versions work side by side on the same jobs; this tells which one did it.
        options["pnginfo"].add_text("Software", f"Pawfect {__version__}")
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, output_format.upper(), **options, **metadata)
    return out.getvalue()


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
