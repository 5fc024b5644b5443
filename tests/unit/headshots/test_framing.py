from __future__ import annotations

import json
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.headshots.framing import Frame, frame
from tests.unit.headshots.silhouettes import (
    WITH_A_NECK,
    WITHOUT,
    Drawing,
    cut_above,
    cut_at_the_left,
    cut_below_the_chin,
    fluffy_dog,
    lying_cat,
    sitting_cat,
    tail_above_head,
)

FADE = 0.25
SCALE = 8  # photo pixels per pixel of a drawing


def frame_drawing(drawing: Drawing) -> Frame:
    alpha, _ = drawing
    height, width = alpha.shape
    return frame(alpha, SCALE * width, SCALE * height, FADE)


def assert_holds(framed: Frame, box: tuple[int, int, int, int], slack: int = 0) -> None:
    left, top, right, bottom = box
    assert framed.left <= left + slack
    assert framed.top <= top + slack
    assert framed.left + framed.width >= right - slack
    assert framed.top + framed.height >= bottom - slack


@pytest.mark.parametrize("draw", WITH_A_NECK + WITHOUT)
def test_the_true_head_is_inside_whether_it_was_found_or_not(draw: Callable[[], Drawing]) -> None:
    left, top, right, bottom = (SCALE * edge for edge in draw()[1])
    assert_holds(frame_drawing(draw()), (left, top, right, bottom), slack=SCALE)


@pytest.mark.parametrize("draw", [draw for draw in WITH_A_NECK if draw not in (cut_above, cut_below_the_chin)])
def test_there_is_air_above_the_head_and_the_eyes_are_about_a_third_down(draw: Callable[[], Drawing]) -> None:
    framed = frame_drawing(draw())
    assert framed.head is not None
    _, top, _, bottom = framed.head
    assert top - framed.top >= 0.055 * framed.height
    eyes = top + 0.45 * (bottom - top) - framed.top
    assert 0.28 < eyes / framed.height < 0.42


def test_a_head_the_photo_cuts_off_above_ends_with_the_frame_and_is_said_to_be_cut() -> None:
    framed = frame_drawing(cut_above())
    assert framed.top == 0
    assert framed.cuts == {"top"}
    assert framed.describe()["cut_top"] == 1
    assert framed.describe()["cut_left"] == 0


def test_a_subject_the_photo_cuts_off_at_a_side_ends_with_the_frame() -> None:
    framed = frame_drawing(cut_at_the_left())
    assert framed.left == 0
    assert framed.cuts == {"left"}


def test_a_tail_above_the_head_is_not_taken_for_it() -> None:
    framed = frame_drawing(tail_above_head())
    assert framed.left + framed.width < SCALE * 540


def test_without_a_head_the_whole_subject_is_inside() -> None:
    alpha, _ = lying_cat()
    x, y, wide, high = cv2.boundingRect(alpha.astype(np.uint8))
    framed = frame_drawing(lying_cat())
    assert framed.head is None
    assert framed.head_bottom is None
    assert framed.confidence == 0
    assert_holds(framed, (SCALE * x, SCALE * y, SCALE * (x + wide), SCALE * (y + high)))
    assert framed.fade_top == framed.fade_bottom


@pytest.mark.parametrize("draw", [sitting_cat, fluffy_dog, cut_at_the_left])
def test_the_neck_fades_below_the_head_within_its_share(draw: Callable[[], Drawing]) -> None:
    framed = frame_drawing(draw())
    assert framed.head_bottom is not None
    assert framed.head_bottom <= framed.fade_top < framed.fade_bottom
    assert framed.fade_bottom - framed.fade_top <= FADE * framed.height + 1
    assert framed.fade_bottom == min(framed.top + framed.height, SCALE * draw()[0].shape[0])


def test_where_the_photo_ends_below_the_chin_the_frame_is_tight_but_leaves_air_and_the_head_unfaded() -> None:
    framed = frame_drawing(cut_below_the_chin())
    assert framed.head is not None
    _, top, _, bottom = framed.head
    assert bottom - top > 0.6 * framed.height
    assert top - framed.top >= 0.055 * framed.height
    assert framed.top + framed.height == pytest.approx(SCALE * 270, abs=0.03 * framed.height)
    assert framed.fade_top == bottom


def test_a_chest_the_network_saw_but_faintly_fades_too() -> None:
    alpha, _ = lying_cat()
    assert frame_drawing((alpha, (0, 0, 0, 0))).fade_top == frame_drawing((alpha, (0, 0, 0, 0))).fade_bottom
    alpha[300:, 200:300] = np.maximum(alpha[300:, 200:300], 0.3)
    framed = frame_drawing((alpha, (0, 0, 0, 0)))
    assert framed.fade_top < framed.fade_bottom == 400 * SCALE


def test_no_fade_is_a_setting() -> None:
    alpha, _ = sitting_cat()
    framed = frame(alpha, 3200, 4000, 0.0)
    assert framed.fade_top == framed.fade_bottom


@pytest.mark.parametrize(("left", "right"), [(60, 380), (0, 450), (100, 300)])
def test_a_close_up_cut_off_above_and_below_keeps_its_full_width_from_the_top(left: int, right: int) -> None:
    alpha = np.zeros((300, 450), np.float32)
    alpha[:, left:right] = 1
    framed = frame(alpha, 4500, 3000, FADE)
    assert framed.top == 0
    assert framed.left <= 10 * left
    assert framed.left + framed.width >= 10 * right
    assert framed.width <= max(2400, 11 * (right - left))
    assert {"top", "bottom"} <= framed.cuts
    assert (framed.fade_bottom, framed.fade_top < 3000) == (3000, True)


def test_the_metrics_are_plain_json() -> None:
    described = frame_drawing(sitting_cat()).describe()
    assert json.loads(json.dumps(described)) == described
    assert described["head_bottom"] < 4000


blobs = st.lists(
    st.tuples(*(st.floats(0, 1) for _ in range(2)), *(st.floats(0.01, 0.5) for _ in range(2)), st.floats(0, 180)),
    min_size=0,
    max_size=5,
)


@settings(deadline=None, max_examples=50)
@given(
    blobs, st.integers(1, 6000), st.integers(1, 6000), st.sampled_from([(320, 320), (48, 64), (7, 5)]), st.floats(0, 1)
)
def test_any_silhouette_in_any_photo_gets_a_frame_that_keeps_the_rules(
    ellipses: list[tuple[float, float, float, float, float]],
    width: int,
    height: int,
    shape: tuple[int, int],
    fade: float,
) -> None:
    coarse = np.zeros(shape, np.float32)
    for x, y, wide, high, angle in ellipses:
        centre, axes = (round(x * shape[1]), round(y * shape[0])), (round(wide * shape[1]), round(high * shape[0]))
        cv2.ellipse(coarse, centre, axes, angle, 0, 360, 1.0, -1)
    framed = frame(coarse, width, height, fade)
    assert framed.height * 4 == framed.width * 5 > 0
    assert framed.left < width
    assert framed.left + framed.width > 0
    assert framed.top < height
    assert framed.top + framed.height > 0
    assert framed.fade_top <= framed.fade_bottom <= height
    assert framed.fade_bottom - framed.fade_top <= fade * framed.height + 1
    if framed.head:
        left, top, right, bottom = framed.head
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert_holds(framed, framed.head)
        assert framed.fade_top >= bottom or framed.fade_top == framed.fade_bottom
