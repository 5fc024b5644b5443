"""Whole pictures at a model's sizes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serve_app.editing.fitting import fit_image, fit_size

sides = st.integers(1, 9000)


@given(width=sides, height=sides, megapixels=st.sampled_from((0.25, 0.5625, 1.0)))
def test_a_size_is_one_that_a_model_takes(width: int, height: int, megapixels: float) -> None:
    across, down = fit_size(width, height, megapixels)
    assert across % 16 == down % 16 == 0
    assert min(across, down) >= 16
    assert across * down <= megapixels * 2**20
    if max(width, height) / min(width, height) < 2:
        assert min(across, down) >= 256


@given(width=st.integers(20, 8000), ratio=st.floats(0.5, 2))
def test_proportions_stay(width: int, ratio: float) -> None:
    height = round(width * ratio)
    across, down = fit_size(width, height, 1.0)
    assert abs(across / down - width / height) / (width / height) < 0.1


def test_an_image_is_cut_in_its_middle_and_scaled() -> None:
    pixels = np.zeros((100, 400, 3), np.uint8)
    pixels[:, 150:250] = 200
    square = fit_image(pixels, 64, 64)
    assert square.shape == (64, 64, 3)
    assert (square == 200).all()
    assert fit_image(pixels, 512, 256).shape == (256, 512, 3)
    assert fit_image(pixels, 16, 1024).shape == (1024, 16, 3)
