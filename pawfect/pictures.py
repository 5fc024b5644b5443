"""Side-by-side pictures that show what an edit did."""

from __future__ import annotations

import io

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps, UnidentifiedImageError

LONG_EDGE_PX = 2000
GAP_PX = 8
LABEL_PX = 28
FONT_PX = 18
PAPER = (255, 255, 255)
INK = (40, 40, 40)
TINT = (255, 0, 160)  # seldom a pet's or a leash's colour
TINT_SHARE = 0.35
OUTLINE_PX = 2


def before_after(original: bytes, mask: bytes, edited: bytes) -> bytes:
    """PNG of three labelled panels in a row: the original, the original with the mask on it (white = edit), the edit.

    Each picture is any format Pillow reads; EXIF orientation is applied, and mask and edit are shown at the original's
    size. The long edge of the result is at most 2000 px. Raises `ValueError` when one of them is no picture.
    """
    before = _read("original", original).convert("RGB")
    width = (LONG_EDGE_PX - 2 * GAP_PX) // 3
    height = LONG_EDGE_PX - LABEL_PX
    scale = min(width / before.width, height / before.height, 1.0)
    size = (max(1, round(before.width * scale)), max(1, round(before.height * scale)))
    before = before.resize(size, Image.Resampling.LANCZOS)
    after = _read("edited", edited).convert("RGB").resize(size, Image.Resampling.LANCZOS)
    area = (
        _read("mask", mask)
        .convert("L")
        .resize(size, Image.Resampling.BILINEAR)
        .point(lambda level: 255 * (level > 127))
    )
    panels = (("before", before), ("mask", _mark(before, area)), ("after", after))
    sheet = Image.new("RGB", (3 * size[0] + 2 * GAP_PX, size[1] + LABEL_PX), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, (label, panel) in enumerate(panels):
        left = index * (size[0] + GAP_PX)
        sheet.paste(panel, (left, LABEL_PX))
        draw.text((left + 2, LABEL_PX // 2), label, fill=INK, font=ImageFont.load_default(FONT_PX), anchor="lm")
    out = io.BytesIO()
    sheet.save(out, "PNG", optimize=True)
    return out.getvalue()


def _read(name: str, content: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return ImageOps.exif_transpose(picture)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{name} is not a picture that can be read: {error}") from error


def _mark(photo: Image.Image, area: Image.Image) -> Image.Image:
    """The photo tinted under area (L, 255 = edit), with a line around it."""
    colour = Image.new("RGB", photo.size, TINT)
    tinted = Image.composite(Image.blend(photo, colour, TINT_SHARE), photo, area)
    grown = area.filter(ImageFilter.MaxFilter(2 * OUTLINE_PX + 1))
    return Image.composite(colour, tinted, ImageChops.subtract(grown, area))
