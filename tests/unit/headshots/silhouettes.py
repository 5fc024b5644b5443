"""Animals drawn from ellipses and polygons, with the true box of their heads: what framing is tried on."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

Box = tuple[int, int, int, int]
Drawing = tuple[np.ndarray, Box]
"""Alpha float32 [h, w], 0 or 1; left, top, right, bottom of the head, ears included."""


def _canvas(width: int = 400, height: int = 500) -> np.ndarray:
    return np.zeros((height, width), np.float32)


def _ellipse(alpha: np.ndarray, centre: tuple[int, int], axes: tuple[int, int], angle: float = 0) -> None:
    cv2.ellipse(alpha, centre, axes, angle, 0, 360, 1.0, -1)


def _polygon(alpha: np.ndarray, *corners: tuple[int, int]) -> None:
    cv2.fillPoly(alpha, [np.array(corners, np.int32)], 1.0)


def sitting_cat() -> Drawing:
    alpha = _canvas()
    _ellipse(alpha, (200, 150), (75, 65))
    _polygon(alpha, (130, 130), (140, 50), (190, 100))
    _polygon(alpha, (270, 130), (260, 50), (210, 100))
    _ellipse(alpha, (200, 350), (100, 170))
    return alpha, (125, 50, 276, 216)


def long_eared_rabbit() -> Drawing:
    alpha = _canvas()
    _ellipse(alpha, (150, 220), (60, 55))
    _ellipse(alpha, (130, 110), (16, 90), 5)
    _ellipse(alpha, (175, 110), (16, 90), -5)
    _ellipse(alpha, (230, 360), (130, 120))
    return alpha, (90, 20, 211, 276)


def fluffy_dog() -> Drawing:
    alpha = _canvas()
    _ellipse(alpha, (200, 200), (120, 120))
    _polygon(alpha, (90, 120), (100, 40), (170, 90))
    _polygon(alpha, (310, 120), (300, 40), (230, 90))
    _ellipse(alpha, (200, 480), (170, 260))
    return alpha, (80, 40, 321, 321)


def dog_in_profile(tail_top: int = 60) -> Drawing:
    """Standing, head to the left; `tail_top` above 60 lifts the tail over the head."""
    alpha = _canvas(700, 500)
    _ellipse(alpha, (330, 260), (200, 80))
    _polygon(alpha, (180, 200), (120, 120), (190, 80), (300, 230))
    _ellipse(alpha, (140, 110), (62, 50))
    _polygon(alpha, (60, 100), (130, 80), (130, 145), (55, 140))
    _polygon(alpha, (150, 70), (190, 60), (200, 130))
    for x in (180, 240, 430, 490):
        _polygon(alpha, (x, 280), (x + 35, 280), (x + 30, 480), (x + 5, 480))
    _polygon(alpha, (510, 230), (560, tail_top), (600, tail_top + 5), (535, 260))
    return alpha, (55, 60, 203, 161)


def tail_above_head() -> Drawing:
    return dog_in_profile(5)


def cut_at_the_left() -> Drawing:
    alpha, (_, top, right, bottom) = sitting_cat()
    return np.ascontiguousarray(alpha[:, 150:]), (0, top, right - 150, bottom)


def cut_above() -> Drawing:
    alpha, (left, _, right, bottom) = sitting_cat()
    return np.ascontiguousarray(alpha[90:]), (left, 0, right, bottom - 90)


def lying_cat() -> Drawing:
    """No neck shows."""
    alpha = _canvas(500, 400)
    _ellipse(alpha, (160, 180), (65, 58))
    _polygon(alpha, (100, 160), (108, 90), (150, 130))
    _polygon(alpha, (220, 160), (212, 90), (170, 130))
    _ellipse(alpha, (270, 260), (190, 100))
    return alpha, (95, 90, 226, 239)


def face_alone() -> Drawing:
    alpha = _canvas()
    _ellipse(alpha, (200, 260), (180, 220))
    return alpha, (20, 40, 381, 481)


def grazing_horse() -> Drawing:
    """The head is the lowest part, and the rump the highest."""
    alpha = _canvas(600, 500)
    _ellipse(alpha, (360, 200), (150, 60))
    _ellipse(alpha, (460, 160), (85, 85))
    _ellipse(alpha, (260, 240), (95, 90))
    _polygon(alpha, (240, 160), (300, 250), (150, 420), (100, 380))
    _ellipse(alpha, (120, 420), (50, 35), 120)
    for x in (270, 320, 430, 480):
        _polygon(alpha, (x, 220), (x + 40, 220), (x + 35, 480), (x + 5, 480))
    return alpha, (80, 360, 160, 480)


def crouching_cat_with_tail() -> Drawing:
    """What a narrow place sets off is the tail, and all the rest is no head."""
    alpha = _canvas(400, 560)
    _ellipse(alpha, (220, 230), (110, 180))
    _polygon(alpha, (150, 100), (160, 30), (200, 60))
    _polygon(alpha, (290, 100), (280, 30), (240, 60))
    _ellipse(alpha, (150, 445), (60, 60))
    return alpha, (130, 30, 311, 250)


def cut_below_the_chin() -> Drawing:
    alpha, head = sitting_cat()
    return np.ascontiguousarray(alpha[:270]), head


WITH_A_NECK: tuple[Callable[[], Drawing], ...] = (
    sitting_cat, long_eared_rabbit, fluffy_dog, dog_in_profile, tail_above_head, cut_at_the_left, cut_above,
    cut_below_the_chin,
)  # fmt: skip
WITHOUT: tuple[Callable[[], Drawing], ...] = (lying_cat, face_alone, grazing_horse, crouching_cat_with_tail)
