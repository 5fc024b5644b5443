"""Any of Pillow's modes to 8-bit RGB, or to the grey of a mask."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageCms

from serve_app.photos.mask_convention import MaskConvention

_STRIP = 256  # rows converted at once; the colour engine works on images of Pillow's, a copy of four bytes per pixel


def find_rgb_profile(image: Image.Image) -> bytes | None:
    """The file's profile if it describes RGB: the colour space field of the ICC header (ICC.1:2022, 7.2.6)."""
    icc: bytes | None = image.info.get("icc_profile")
    return icc if icc is not None and icc[16:20] == b"RGB " else None


def to_rgb(image: Image.Image) -> tuple[Image.Image, bytes | None]:
    """8-bit RGB, and the profile that still describes it."""
    if image.mode == "CMYK":  # Pillow has undone Adobe's inversion
        return _from_cmyk(image, image.info.get("icc_profile")), None
    icc = find_rgb_profile(image)
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


def to_srgb(pixels: NDArray[np.uint8], icc: bytes) -> NDArray[np.uint8]:
    """RGB uint8 [H, W, 3] in the space of an RGB profile → the same in sRGB, in place where the array can be written.

    Relative colorimetric with black point compensation: what sRGB has stays as it is, what it lacks is clipped. With a
    broken profile the pixels are left alone, which is what viewers show.
    """
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(icc)),
            ImageCms.createProfile("sRGB"),
            *("RGB", "RGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError):
        return pixels
    result = pixels if pixels.flags.writeable else pixels.copy()
    for top in range(0, len(result), _STRIP):
        strip = Image.fromarray(np.ascontiguousarray(result[top : top + _STRIP]))
        result[top : top + _STRIP] = np.asarray(ImageCms.applyTransform(strip, transform))
    return result


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


def to_mask_grey(image: Image.Image, convention: MaskConvention = "white") -> Image.Image:
    """Mode L, 255 = edit."""
    if convention == "transparent":
        alpha = _find_alpha(image)
        # Opaque all over, it marks nothing: a black and white mask that was saved with alpha.
        if np.asarray(alpha).min() < 255:
            return ImageChops.invert(alpha)
    if image.mode.startswith("I"):
        return _eight_bit(image, transparent=0)
    if image.has_transparency_data:
        luma, alpha = image.convert("RGBA").convert("LA").split()
        return ImageChops.multiply(luma, alpha)
    return image if image.mode == "L" else image.convert("L")


def _find_alpha(image: Image.Image) -> Image.Image:
    """Mode L, 255 = opaque; all of it for a file without transparency."""
    key = image.info.get("transparency")
    if image.mode.startswith("I"):
        opaque = np.asarray(image) != key if isinstance(key, int) else np.ones(image.size[::-1], bool)
        return Image.fromarray(opaque.view(np.uint8) * np.uint8(255))
    if image.has_transparency_data:
        return image.convert("RGBA").getchannel("A")
    return Image.new("L", image.size, 255)
