"""Alpha near the edge, on pictures whose alpha is known because they were mixed with it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from serve_app.headshots.closed_form import solve_alpha
from serve_app.headshots.matting import Alpha, Rgb
from serve_app.headshots.refinement import LEAST, clear_islands, refine_alpha, split
from serve_app.headshots.strands import find_strands

FUR, SKY = (205, 150, 95), (60, 90, 130)
GRAINS = 64  # the network's size in these tests


def mix(alpha: Alpha, background: Rgb | None = None) -> Rgb:
    """A photo with a sensor's noise of `FUR` before a background, by default `SKY`."""
    behind = np.asarray(SKY if background is None else background, np.float64)
    photo = alpha[..., None] * np.asarray(FUR) + (1 - alpha[..., None]) * behind
    photo += np.random.default_rng(3).normal(0, 1.5, photo.shape)
    return np.clip(photo + 0.5, 0, 255).astype(np.uint8)


def head(size: int = 512, *, hairs: int = 120, whiskers: int = 0, bend: float = 0.08) -> Alpha:
    """A disc with hairs around its edge and whiskers to both sides, alpha from drawing it four times as large. `bend`
    is how far a whisker's middle hangs below its ends, over its length."""
    rng = np.random.default_rng(7)
    canvas = np.zeros((size * 4, size * 4), np.uint8)
    middle, radius = 2 * size, 1.0 * size
    cv2.circle(canvas, (middle, middle), int(radius), 255, -1)
    for angle in rng.uniform(0, 2 * np.pi, hairs):
        lean = angle + rng.normal(0, 0.25)
        start = middle + 0.97 * radius * np.array([np.cos(angle), np.sin(angle)])
        end = start + rng.uniform(0.05, 0.15) * radius * np.array([np.cos(lean), np.sin(lean)])
        cv2.line(canvas, start.astype(int).tolist(), end.astype(int).tolist(), 255, 6)
    for index in range(whiskers):
        side, slope = (-1 if index % 2 else 1), 0.15 * (index // 2 - 1)
        start = np.array([middle + side * 0.9 * radius, middle + slope * radius])
        way = np.linspace(0, 1, 40)[:, None]
        length = 0.7 * radius
        points = start + length * (way * np.array([side, slope]) + 4 * bend * way * (1 - way) * np.array([0, 1]))
        cv2.polylines(canvas, [points.astype(np.int32)], False, 255, 7)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def blur_to_network(alpha: Alpha, side: int = GRAINS) -> Alpha:
    """What a network at its best would say: no whiskers, no hairs, a soft edge."""
    opened = cv2.morphologyEx(alpha, cv2.MORPH_OPEN, np.ones((15, 15), np.uint8))
    return cv2.GaussianBlur(cv2.resize(opened, (side, side), interpolation=cv2.INTER_AREA), (0, 0), 0.8)


def enlarge(coarse: Alpha, like: Alpha) -> Alpha:
    return np.clip(cv2.resize(coarse, like.shape[::-1], interpolation=cv2.INTER_CUBIC), 0, 1)


def error(alpha: Alpha, truth: Alpha, where: np.ndarray | None = None) -> float:
    difference = np.abs(alpha - truth)
    return float(difference.mean() if where is None else difference[where].mean())


def test_hairs_come_back_far_better_than_the_coarse_alpha_has_them() -> None:
    truth = head()
    coarse = blur_to_network(truth)
    refined = refine_alpha(mix(truth), coarse)
    assert error(refined, truth) < 0.35 * error(enlarge(coarse, truth), truth)


def test_whiskers_far_beyond_the_band_come_back_opaque() -> None:
    truth = head(whiskers=6)
    coarse = blur_to_network(truth)
    whiskers = (truth - head()) > 0.5
    assert whiskers.sum() > 500
    far = whiskers & (np.hypot(*(np.indices(truth.shape) - 256)) > 256 * 0.5 + 40)
    assert enlarge(coarse, truth)[far].max() < 0.05, "the coarse alpha knows nothing of them"
    refined = refine_alpha(mix(truth), coarse)
    assert np.median(refined[far]) > 0.7
    assert error(refined, truth) < error(refine_alpha(mix(head()), coarse), truth)


def test_lines_of_the_background_that_end_at_the_subject_are_no_whiskers() -> None:
    truth = head(hairs=0)
    background = np.full((512, 512, 3), SKY, np.uint8)
    background[::32] = background[1::32] = (210, 205, 200)
    refined = refine_alpha(mix(truth, background), blur_to_network(truth))
    away = cv2.dilate(truth, np.ones((101, 101), np.uint8)) == 0
    assert refined[away].max() == 0


def test_away_from_the_edge_alpha_is_exact() -> None:
    truth = head()
    refined = refine_alpha(mix(truth), blur_to_network(truth))
    distance = np.hypot(*(np.indices(truth.shape) - 255.5)) - 128
    assert (refined[distance < -60] == 1).all()
    assert (refined[distance > 90] == 0).all()


@pytest.mark.parametrize("size", [(512, 512), (300, 700)])
def test_range_type_and_size(size: tuple[int, int]) -> None:
    truth = cv2.resize(head(), size[::-1], interpolation=cv2.INTER_AREA)
    photo = mix(truth)
    before = photo.copy()
    refined = refine_alpha(photo, blur_to_network(truth))
    assert refined.shape == size
    assert refined.dtype == np.float32
    assert (refined.min(), refined.max()) == (0, 1)
    between = refined[(refined > 0) & (refined < 1)]
    assert between.size > 0
    assert between.min() >= LEAST
    assert between.max() <= 1 - LEAST
    np.testing.assert_array_equal(photo, before)


def test_the_same_photo_gives_the_same_alpha() -> None:
    truth = head(whiskers=4)
    photo, coarse = mix(truth), blur_to_network(truth)
    np.testing.assert_array_equal(refine_alpha(photo, coarse), refine_alpha(photo.copy(), coarse.copy()))


def test_a_photo_larger_than_the_first_solution_keeps_its_detail() -> None:
    truth = cv2.resize(head(), (1600, 1600), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    coarse = blur_to_network(cv2.resize(truth, (512, 512), interpolation=cv2.INTER_AREA))
    refined = refine_alpha(mix(truth), coarse)
    assert refined.shape == truth.shape
    assert error(refined, truth) < 0.4 * error(enlarge(coarse, truth), truth)


def test_the_band_follows_the_grain_that_is_given() -> None:
    truth = head()
    coarse = blur_to_network(truth)
    enlarged = enlarge(coarse, truth)
    np.testing.assert_allclose(
        refine_alpha(mix(truth), enlarged, grain_px=512 / GRAINS), refine_alpha(mix(truth), coarse), atol=0.02
    )
    assert error(refine_alpha(mix(truth), enlarged), truth) > error(refine_alpha(mix(truth), coarse), truth)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 90), (90, 1), (2, 2), (3, 5), (40, 33), (400, 300)])
def test_all_or_nothing_stays_so_at_any_size(size: tuple[int, int], value: float) -> None:
    photo = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    refined = refine_alpha(photo, np.full((32, 32), value, np.float32))
    np.testing.assert_array_equal(refined, np.full(size, value, np.float32))


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 3), (7, 7), (1, 4000)])
@pytest.mark.parametrize("side", [1, 8, 320])
def test_tiny_and_thin_photos_give_some_alpha(size: tuple[int, int], side: int) -> None:
    rng = np.random.default_rng(2)
    photo = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    refined = refine_alpha(photo, rng.random((side, side), np.float32))
    assert refined.shape == size
    assert np.isfinite(refined).all()
    assert ((refined >= 0) & (refined <= 1)).all()


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_photo_of_one_colour_keeps_the_guess_in_sight(grey: int) -> None:
    truth = head(hairs=0)
    refined = refine_alpha(np.full((512, 512, 3), grey, np.uint8), blur_to_network(truth))
    assert error(refined, truth) < 0.06


def test_a_grey_photo_is_refined_by_its_brightness() -> None:
    truth = head()
    grey = np.repeat(mix(truth).mean(2, keepdims=True), 3, 2).astype(np.uint8)
    coarse = blur_to_network(truth)
    assert error(refine_alpha(grey, coarse), truth) < 0.5 * error(enlarge(coarse, truth), truth)


def test_a_nose_the_network_wavers_at_is_subject_and_a_gap_between_paws_is_not() -> None:
    guess = np.zeros((200, 200), np.float32)
    guess[20:180, 20:180] = 1
    guess[60:70, 90:110] = 0.4  # a nose
    guess[120:180, 95:105] = 0  # between the paws, open below
    subject, background = split(guess, 1.0)
    assert subject[65, 100]
    assert background[150, 100]
    assert not (subject & background).any()


def test_stray_islands_go_and_a_second_pet_stays() -> None:
    guess = np.zeros((200, 200), np.float32)
    guess[20:180, 20:100] = 1
    guess[60:150, 120:160] = 0.9
    guess[5:9, 190:195] = 0.8
    cleared = clear_islands(guess)
    assert not cleared[:10, 180:].any()
    np.testing.assert_array_equal(cleared[:, :180], guess[:, :180])


def test_the_solver_leaves_the_known_and_follows_a_colour_line() -> None:
    truth = np.tile(np.linspace(0, 1, 40, dtype=np.float32), (30, 1))
    photo = (truth[..., None] * 200 + 25).astype(np.uint8).repeat(3, 2)
    unknown = np.zeros(truth.shape, np.bool_)
    unknown[:, 5:35] = True
    start = np.where(unknown, 0, truth).astype(np.float32)
    solved = solve_alpha(photo, start, unknown, 0.0, 500)
    np.testing.assert_array_equal(solved[~unknown], truth[~unknown])
    np.testing.assert_allclose(solved, truth, atol=0.02)


def test_tiles_leave_no_seam() -> None:
    truth = cv2.resize(head(), (420, 420), interpolation=cv2.INTER_AREA)
    photo = mix(truth)
    unknown = np.zeros(truth.shape, np.bool_)
    unknown[150:270, 150:270] = True  # across the tiles' corner at 192
    start = np.where(unknown, 0.5, 1).astype(np.float32)
    whole = solve_alpha(photo, start, unknown, 1e-3, 400)
    part = np.s_[140:280, 140:280]  # one tile
    np.testing.assert_allclose(solve_alpha(photo[part], start[part], unknown[part], 1e-3, 400), whole[part], atol=1e-3)


@pytest.mark.parametrize(("bend", "found"), [(0.06, True), (0.12, True), (0.0, False), (0.01, False)])
def test_what_hangs_is_a_whisker_and_what_is_straight_is_a_line_of_the_room(bend: float, found: bool) -> None:
    disc, kernel = head(hairs=0), np.ones((13, 13))
    subject = cv2.erode(disc, kernel) > 0.9
    band = (cv2.dilate(disc, kernel) > 0.1) & ~subject
    strands = find_strands(mix(head(hairs=0, whiskers=4, bend=bend)), subject, band, 4.0)
    assert bool(strands.lines) is found


def test_no_strands_without_a_subject_or_without_a_background() -> None:
    photo = mix(head())
    none, everywhere = np.zeros((512, 512), np.bool_), np.ones((512, 512), np.bool_)
    for subject in (none, everywhere):
        strands = find_strands(photo, subject, none, 4.0)
        assert strands.lines == ()
        assert not strands.around.any()
