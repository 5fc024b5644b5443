"""The sample photo as a canary: what is sent, and whether what came back is an edit of it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops, ImageFilter, ImageStat

import pawfect
from delivery.errors import VerificationFailed

MARGIN = 0.02
"""How far from the mask the service may change a photo, as a share of its long edge; by default it goes 0.003 far."""
LEAST_CHANGE = 2.0
"""Mean difference under the mask, of 255: the sample's leash is dark on a light street, so it makes some 40."""
MAKER = "Pawfect "
"""Before the version, in a PNG's text chunk `Software`."""
_STEP_PX = 4


@dataclass(frozen=True, slots=True)
class Canary:
    """PNG, so that neither way changes a pixel."""

    photo: bytes
    mask: bytes


def load_canary() -> Canary:
    folder = Path(next(iter(pawfect.__path__))) / "sample"
    with Image.open(folder / "original.jpg") as photo, Image.open(folder / "mask_auto.png") as mask:
        return Canary(_write(photo.convert("RGB")), _write(mask.convert("L")))


def judge(canary: Canary, result: bytes) -> str:
    """What was seen, in a sentence. Raises VerificationFailed when it is no edit under the mask alone."""
    photo, mask = Image.open(io.BytesIO(canary.photo)), Image.open(io.BytesIO(canary.mask))
    try:
        edited = Image.open(io.BytesIO(result)).convert("RGB")
    except OSError:
        raise VerificationFailed(f"What came back is no picture ({len(result)} bytes).") from None
    if edited.size != photo.size:
        raise VerificationFailed(f"The picture came back as {edited.size}; it was sent as {photo.size}.")
    difference = ImageChops.difference(photo, edited)
    hole = mask.point([255 * (value > 127) for value in range(256)])
    kept = ImageChops.invert(_grow(hole, round(MARGIN * max(photo.size))))
    far = Image.composite(difference, Image.new("RGB", photo.size), kept)
    outside = max(high for _, high in ImageStat.Stat(far).extrema)
    if outside:
        raise VerificationFailed(f"Pixels far from the mask changed, by up to {outside} of 255.")
    inside = ImageStat.Stat(difference.convert("L"), hole)
    changed = inside.sum[0] / inside.count[0]
    if changed < LEAST_CHANGE:
        raise VerificationFailed(f"Under the mask nothing changed: by {changed:.1f} of 255 on average.")
    return f"changed by {changed:.0f} of 255 under the mask, by nothing outside it"


def read_version(result: bytes) -> str | None:
    """The version that made a PNG of it, as the service writes it (serve_app/photos/codec.py); None if it does not
    say."""
    try:
        with Image.open(io.BytesIO(result)) as picture:
            told = picture.info.get("Software")
    except OSError:
        return None
    return told.removeprefix(MAKER) if isinstance(told, str) and told.startswith(MAKER) else None


def _grow(hole: Image.Image, radius_px: int) -> Image.Image:
    """By squares, so by no less than a disc would."""
    for _ in range(-(-radius_px // _STEP_PX)):
        hole = hole.filter(ImageFilter.MaxFilter(2 * _STEP_PX + 1))
    return hole


def _write(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()
