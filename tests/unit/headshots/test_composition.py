from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from serve_app.headshots.composition import encode_png, fade_out, fill_transparent, shrink_premultiplied, to_bytes


def disc(height: int = 250, width: int = 200) -> np.ndarray:
    alpha = np.zeros((height, width), np.float32)
    cv2.circle(alpha, (width // 2, height // 2), width // 3, 1.0, -1)
    return cv2.GaussianBlur(alpha, (0, 0), 2)


@given(st.floats(-50, 300), st.floats(0, 300))
def test_the_fade_leaves_rows_above_bit_identical_and_ends_at_nothing(top: float, length: float) -> None:
    alpha = np.random.default_rng(0).random((250, 200), np.float32)
    faded = fade_out(alpha, top, top + length)
    first = int(np.clip(np.ceil(top), 0, 250))
    assert np.array_equal(faded[:first], alpha[:first])
    assert (faded <= alpha).all()
    if top + length > top:
        assert not faded[int(np.clip(np.ceil(top + length), 0, 250)) :].any()
    else:
        assert np.array_equal(faded, alpha)


def test_the_fade_is_smooth_and_falls_all_the_way() -> None:
    faded = fade_out(np.ones((400, 101), np.float32), 200, 400)
    column = faded[:, 50]
    assert (np.diff(column) <= 0).all()
    assert np.abs(np.diff(column)).max() < 0.011
    assert np.abs(np.diff(column, n=2)).max() < 0.001
    assert column[200] > 0.999
    assert column[399] < 0.001
    assert 0.4 < column[300] < 0.6


def test_the_fade_comes_sooner_at_the_sides() -> None:
    faded = fade_out(np.ones((400, 101), np.float32), 200, 400)
    assert faded[290, 0] < faded[290, 50] - 0.1
    assert np.allclose(faded[:, 0], faded[:, 100])


def test_hidden_pixels_take_the_tone_of_the_subject_nearby_and_shown_ones_keep_theirs() -> None:
    alpha = disc()
    grey = np.full(alpha.shape, 255, np.uint8)
    grey[alpha > 0] = 60
    grey[:125][alpha[:125] > 0] = 180
    filled = fill_transparent(grey, alpha)
    shown = alpha >= 0.5 / 255
    assert np.array_equal(filled[shown], grey[shown])
    assert 168 < filled[125 - 75, 100] < 192
    assert 48 < filled[125 + 75, 100] < 72
    assert filled[~shown].min() >= 55
    assert filled[~shown].max() <= 185


def test_nothing_to_show_is_filled_without_complaint() -> None:
    assert fill_transparent(np.zeros((50, 40), np.uint8), np.zeros((50, 40), np.float32)).shape == (50, 40)


@pytest.mark.parametrize("background", [0, 255])
def test_shrinking_and_laying_down_is_laying_down_and_shrinking(background: int) -> None:
    """What premultiplied means: no fringe appears on white or on black."""
    alpha = to_bytes(disc(500, 400))
    random = np.random.default_rng(0)
    grey = random.integers(0, 256, alpha.shape, dtype=np.uint8)
    grey[alpha == 0] = 255 - background

    def lay(tones: np.ndarray, opacity: np.ndarray) -> np.ndarray:
        share = opacity.astype(np.float64) / 255
        return tones * share + background * (1 - share)

    small = lay(*shrink_premultiplied(grey, alpha, 160, 200))
    expected = cv2.resize(lay(grey, alpha), (160, 200), interpolation=cv2.INTER_AREA)
    assert np.abs(small - expected).max() < 1.6


def test_a_png_has_three_equal_channels_its_alpha_and_an_srgb_tag() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (50, 40), dtype=np.uint8)
    alpha = to_bytes(disc(50, 40))
    data = encode_png(grey, alpha)
    image = Image.open(io.BytesIO(data))
    assert image.mode == "RGBA"
    assert image.info["srgb"] == 0
    assert image.info["gamma"] == pytest.approx(0.45455)
    pixels = np.asarray(image)
    assert np.array_equal(pixels, np.dstack([grey, grey, grey, alpha]))
    assert data.index(b"sRGB") < data.index(b"IDAT")
    assert encode_png(grey, alpha) == data
