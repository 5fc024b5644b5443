"""What counts as an edit of the sample."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from delivery.canary import Canary, judge, load_canary
from delivery.errors import VerificationFailed


def write(picture: Image.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    picture.save(out, kind)
    return out.getvalue()


@pytest.fixture
def canary() -> Canary:
    photo, mask = Image.new("RGB", (200, 100), "grey"), Image.new("L", (200, 100))
    mask.paste(255, (80, 40, 120, 60))
    return Canary(write(photo), write(mask))


def edit(canary: Canary, box: tuple[int, int, int, int]) -> bytes:
    photo = Image.open(io.BytesIO(canary.photo))
    photo.paste((90, 160, 90), box)
    return write(photo)


def test_an_edit_under_the_mask(canary: Canary) -> None:
    assert "by nothing outside it" in judge(canary, edit(canary, (78, 38, 122, 62)))


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((80, 40, 140, 60), "Pixels far from the mask changed, by up to 38 of 255"),
        ((0, 0, 1, 1), "Pixels far from the mask"),
        ((80, 40, 81, 41), "Under the mask nothing changed"),
    ],
)
def test_what_is_no_edit(canary: Canary, box: tuple[int, int, int, int], reason: str) -> None:
    with pytest.raises(VerificationFailed, match=reason):
        judge(canary, edit(canary, box))


def test_what_is_no_picture_of_it(canary: Canary) -> None:
    with pytest.raises(VerificationFailed, match="no picture"):
        judge(canary, b"<html>")
    with pytest.raises(VerificationFailed, match="came back as"):
        judge(canary, write(Image.new("RGB", (100, 100))))


def test_the_sample_itself_is_no_edit() -> None:
    sample = load_canary()
    with pytest.raises(VerificationFailed, match="nothing changed"):
        judge(sample, sample.photo)
