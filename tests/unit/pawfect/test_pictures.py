from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pawfect.pictures import GAP_PX, LABEL_PX, TINT, before_after


def encode(picture: Image.Image, kind: str = "PNG", orientation: int | None = None) -> bytes:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    out = io.BytesIO()
    picture.save(out, kind, exif=exif)
    return out.getvalue()


def plain(colour: tuple[int, int, int], size: tuple[int, int] = (120, 80)) -> Image.Image:
    return Image.new("RGB", size, colour)


def mask_with_a_box(size: tuple[int, int] = (120, 80)) -> Image.Image:
    mask = Image.new("L", size, 0)
    mask.paste(255, (40, 30, 80, 50))
    return mask


def panels(sheet: bytes) -> list[np.ndarray]:
    with Image.open(io.BytesIO(sheet)) as picture:
        assert picture.format == "PNG"
        pixels = np.array(picture)[LABEL_PX:]
    width = (pixels.shape[1] - 2 * GAP_PX) // 3
    return [pixels[:, i * (width + GAP_PX) : i * (width + GAP_PX) + width] for i in range(3)]


def test_before_mask_and_after_stand_side_by_side() -> None:
    sheet = before_after(encode(plain((10, 20, 30))), encode(mask_with_a_box()), encode(plain((200, 100, 50))))
    before, marked, after = panels(sheet)
    assert before.shape == marked.shape == after.shape == (80, 120, 3)
    assert (before == (10, 20, 30)).all()
    assert (after == (200, 100, 50)).all()
    assert (marked[40, 39] == TINT).all(), "a line around the mask"
    inside, outside = marked[40, 60], marked[10, 10]
    assert (outside == (10, 20, 30)).all()
    assert not (inside == (10, 20, 30)).all()
    assert not (inside == TINT).all(), "the photo shows through"


def test_every_panel_has_a_label() -> None:
    sheet = before_after(encode(plain((0, 0, 0))), encode(mask_with_a_box()), encode(plain((0, 0, 0))))
    with Image.open(io.BytesIO(sheet)) as picture:
        labels = np.array(picture.convert("L"))[:LABEL_PX]
    for left in (0, 128, 256):
        assert (labels[:, left : left + 120] < 128).sum() > 20


@pytest.mark.parametrize("size", [(6000, 4000), (3000, 6000), (20_000, 10)])
def test_the_long_edge_is_at_most_2000(size: tuple[int, int]) -> None:
    photo = encode(plain((1, 2, 3), size))
    with Image.open(io.BytesIO(before_after(photo, encode(mask_with_a_box()), photo))) as picture:
        assert max(picture.size) <= 2000


def test_orientation_is_applied() -> None:
    upright = plain((0, 0, 0), (60, 100))
    upright.paste((255, 255, 255), (0, 0, 60, 50))
    # As a camera held sideways stores it: orientation 6 says "turn by 90° clockwise to show".
    stored = encode(upright.rotate(90, expand=True), "JPEG", orientation=6)
    before, _, after = panels(before_after(stored, encode(mask_with_a_box((60, 100))), encode(upright)))
    assert before.shape == (100, 60, 3)
    assert np.abs(before.astype(int) - after).mean() < 3


def test_mask_and_edit_are_shown_at_the_original_s_size() -> None:
    sheet = before_after(
        encode(plain((0, 0, 0))), encode(mask_with_a_box().resize((60, 40))), encode(plain((9, 9, 9), (30, 20)))
    )
    assert [panel.shape for panel in panels(sheet)] == [(80, 120, 3)] * 3


@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_is_no_picture_is_named(which: int) -> None:
    pictures = [encode(plain((0, 0, 0)))] * 3
    pictures[which] = b"<html>not found</html>"
    with pytest.raises(ValueError, match=f"^{('original', 'mask', 'edited')[which]} is not a picture"):
        before_after(*pictures)
