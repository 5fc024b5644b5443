from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from serve_app.headshots.silhouette import bound, find_bulk, find_cuts, find_head, keep_subject, to_grid
from tests.unit.headshots.silhouettes import WITH_A_NECK, WITHOUT, Drawing, cut_above, cut_at_the_left, face_alone


def grid(drawing: Drawing) -> tuple[np.ndarray, float]:
    alpha, _ = drawing
    height, width = alpha.shape
    return to_grid(alpha, width, height), max(height, width) / 256


@pytest.mark.parametrize("draw", WITH_A_NECK)
def test_a_head_on_a_neck_is_found_whole_with_its_ears(draw: Callable[[], Drawing]) -> None:
    mask, scale = grid(draw())
    head = find_head(mask)
    assert head is not None
    assert head.confidence > 0.5
    left, top, right, bottom = (edge * scale for edge in head.box)
    true_left, true_top, true_right, true_bottom = draw()[1]
    assert left <= true_left + 10
    assert top <= true_top + 4
    assert right >= true_right - 10
    assert bottom >= true_bottom - 10
    assert (right - left) * (bottom - top) < 2.2 * (true_right - true_left) * (true_bottom - true_top)


@pytest.mark.parametrize("draw", WITHOUT)
def test_no_head_is_claimed_where_no_neck_shows_or_the_head_hangs(draw: Callable[[], Drawing]) -> None:
    assert find_head(grid(draw())[0]) is None


@pytest.mark.parametrize("mask", [np.zeros((256, 200), bool), np.ones((256, 200), bool), np.ones((1, 1), bool)])
def test_nothing_and_everything_have_no_head(mask: np.ndarray) -> None:
    assert find_head(mask) is None


def test_cuts_are_the_edges_the_subject_reaches() -> None:
    assert find_cuts(grid(cut_at_the_left())[0]) == {"left", "bottom"}
    assert find_cuts(grid(cut_above())[0]) == {"top", "bottom"}
    assert find_cuts(grid(face_alone())[0]) == set()


def test_the_bulk_of_a_face_is_the_face() -> None:
    mask, _ = grid(face_alone())
    left, top, right, bottom = find_bulk(mask)
    whole = bound(mask)
    assert right - left == pytest.approx(whole[2] - whole[0], abs=4)
    assert whole[1] < top < bottom < whole[3]
    assert find_bulk(np.ones((9, 7), bool)) == (0, 0, 7, 9)


def subjects(*boxes: tuple[int, int, int, int], faint: tuple[int, int, int, int] | None = None) -> np.ndarray:
    alpha = np.zeros((200, 200), np.float32)
    for left, top, right, bottom in boxes:
        alpha[top:bottom, left:right] = 0.9
    if faint:
        left, top, right, bottom = faint
        alpha[top:bottom, left:right] = 0.2
    return alpha


def test_the_largest_subject_stays_unchanged_and_others_go() -> None:
    alpha = subjects((10, 10, 80, 120), (120, 60, 180, 110))
    kept = keep_subject(alpha)
    assert np.array_equal(kept[:, :100], alpha[:, :100])
    assert not kept[:, 100:].any()


def test_what_is_linked_to_it_stays() -> None:
    linked = subjects((10, 10, 80, 120), (120, 60, 180, 110), faint=(80, 70, 120, 76))
    near = subjects((10, 10, 80, 120), (82, 60, 180, 110))
    assert np.array_equal(keep_subject(linked), linked)
    assert np.array_equal(keep_subject(near), near)


def test_an_empty_alpha_stays_empty() -> None:
    assert not keep_subject(np.zeros((20, 30), np.float32)).any()
