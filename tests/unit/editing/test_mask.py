from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.editing import mask as masks
from serve_app.errors import MaskEmpty, MaskUnreadable


def spots(height: int, width: int, seed: int, count: int = 3) -> np.ndarray:
    random = np.random.default_rng(seed)
    mask = np.zeros((height, width), bool)
    mask[random.integers(0, height, count), random.integers(0, width, count)] = True
    return mask


def test_only_what_is_brighter_than_the_threshold_is_edited() -> None:
    assert masks.binarize(np.array([[0, 127, 128, 255]], np.uint8)).tolist() == [[False, False, True, True]]


def test_an_empty_mask_is_refused_and_a_full_one_is_not() -> None:
    with pytest.raises(MaskEmpty, match="127"):
        masks.binarize(np.full((4, 4), 127, np.uint8))
    assert masks.binarize(np.full((4, 4), 255, np.uint8)).all()


def test_a_mask_of_the_photos_size_is_left_alone() -> None:
    mask = spots(30, 40, 0)
    assert masks.fit(mask, 40, 30) is mask


@pytest.mark.parametrize("size", [(80, 60), (400, 300), (20, 15), (41, 31), (40, 31)])
def test_a_mask_of_the_photos_proportions_is_resized(size: tuple[int, int]) -> None:
    mask = np.zeros((30, 40), bool)
    mask[10:20, 20:40] = True
    fitted = masks.fit(mask, *size)
    assert fitted.shape == size[::-1]
    assert fitted.mean() == pytest.approx(mask.mean(), abs=0.06)
    assert fitted[size[1] // 2, size[0] * 3 // 4]
    assert not fitted[:, : size[0] // 4].any()


def test_a_single_pixel_survives_shrinking() -> None:
    assert masks.fit(spots(900, 1200, 1, 1), 40, 30).sum() >= 1


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("scale", [1, 2])
def test_a_mask_made_for_the_stored_pixels_is_turned_with_them(orientation: int, scale: int) -> None:
    stored = spots(30, 40, 2)
    fitted = masks.fit(np.kron(stored, np.ones((scale, scale), bool)), 30, 40, orientation)
    assert np.array_equal(fitted, masks.turn(stored, orientation))


def test_a_mask_made_for_the_seen_photo_is_not_turned() -> None:
    seen = spots(40, 30, 3)
    assert np.array_equal(masks.fit(seen, 30, 40, 6), seen)


@pytest.mark.parametrize("orientation", [1, 3])
def test_other_proportions_are_refused_with_both_sizes(orientation: int) -> None:
    with pytest.raises(MaskUnreadable, match="40 × 30 pixels but the photo is 30 × 40"):
        masks.fit(spots(30, 40, 4), 30, 40, orientation)


def test_dilation_radius_is_a_share_of_the_long_edge() -> None:
    assert masks.dilation_radius(3000, 4000, 0.003) == 12
    assert masks.dilation_radius(10, 10, 0.003) == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(0, 40), st.integers(0, 9))
def test_dilation_is_by_a_disc(height: int, width: int, radius: int, seed: int) -> None:
    mask = spots(height, width, seed)
    steps = np.arange(-radius, radius + 1)
    disc = (np.add.outer(steps**2, steps**2) <= radius**2).astype(np.uint8)
    whole = cv2.dilate(mask.astype(np.uint8) * 255, disc)
    assert np.array_equal(masks.dilate(mask, radius), whole)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 90), st.integers(1, 90), st.integers(0, 9))
def test_resizing_loses_no_pixel(height: int, width: int, rows: int, columns: int, seed: int) -> None:
    mask = spots(height, width, seed)
    small = masks.resize(mask.view(np.uint8), columns, rows)
    assert small.shape == (rows, columns)
    for y, x in np.argwhere(mask):
        if rows <= height and columns <= width:
            assert small[y * rows // height, x * columns // width]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 40), st.integers(0, 9))
def test_tiles_are_disjoint_and_hold_all_that_is_near(height: int, width: int, margin: int, seed: int) -> None:
    mask = spots(height, width, seed)
    hits = np.zeros((height, width), int)
    for left, top, right, bottom in masks.tiles(mask, margin):
        hits[top:bottom, left:right] += 1
    assert hits.max() == 1
    assert hits[masks.dilate(mask, margin) > 0].all()
