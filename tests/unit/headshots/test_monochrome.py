from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.headshots.monochrome import (
    bend,
    compress,
    encode,
    enhance,
    find_bend,
    find_gains,
    find_levels,
    make_monochrome,
    mix,
    stretch,
)
from serve_app.settings_headshots import HeadshotSettings

LOOK = HeadshotSettings()
PLAIN = (1.0, 1.0, 1.0)


def scene(seed: int = 0, height: int = 300, width: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Fur-like colours of several tones, and a soft disc as alpha."""
    random = np.random.default_rng(seed)
    coarse = random.uniform(20, 235, (6, 5, 3)).astype(np.float32)
    image = cv2.resize(coarse, (width, height)) + random.normal(0, 12, (height, width, 1))
    alpha = np.zeros((height, width), np.float32)
    cv2.circle(alpha, (width // 2, height // 2), width // 3, 1.0, -1)
    return np.clip(image, 0, 255).astype(np.uint8), cv2.GaussianBlur(alpha, (0, 0), 3)


def test_the_mix_weighs_linear_light_and_white_stays_white() -> None:
    primaries = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    assert mix(primaries, PLAIN)[0].tolist() == pytest.approx([0.27, 0.67, 0.06, 1.0], abs=1e-6)


def test_a_grey_keeps_its_tone_through_light_and_back() -> None:
    greys = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    assert np.array_equal(np.rint(encode(mix(greys, PLAIN)) * 255)[0], np.arange(256))


def test_the_balance_is_the_subjects_bounded_and_leaves_its_mean_light_alone() -> None:
    image, alpha = np.full((40, 40, 3), (255, 0, 0), np.uint8), np.zeros((40, 40), np.float32)
    image[10:30, 10:30] = (150, 140, 120)
    alpha[10:30, 10:30] = 1
    gains = find_gains(image, alpha)
    assert gains[0] < 1 < gains[2]
    assert mix(image, gains)[20, 20] == pytest.approx(mix(image, PLAIN)[20, 20], rel=1e-5)
    image[10:30, 10:30] = (220, 120, 20)
    assert max(find_gains(image, alpha)) / min(find_gains(image, alpha)) <= 1.25**2 + 1e-6
    assert find_gains(image, np.zeros_like(alpha)) == PLAIN


@given(st.floats(0, 0.06), st.floats(0.8, 1), st.floats(0.8, 1.25), st.floats(0.05, 0.98))
def test_the_tone_curve_is_monotone(low: float, high: float, exponent: float, shoulder: float) -> None:
    tones = np.linspace(0, 1, 4096, dtype=np.float32)[None]
    curve = compress(bend(stretch(tones, low, high), exponent), shoulder)[0]
    assert (np.diff(curve) >= 0).all()
    assert 0 <= curve[0] < 0.03
    assert curve[-1] <= 1
    assert len(np.unique(np.rint(curve * 255))) > 150


def test_the_shoulder_leaves_what_lies_below_alone_and_is_smooth() -> None:
    tones = np.linspace(0, 1.25, 100_001, dtype=np.float32)[None]
    curve = compress(tones, 0.85)[0].astype(np.float64)
    middle = (tones[0] > 0.04) & (tones[0] < 0.85)
    assert np.array_equal(curve[middle], tones[0][middle])
    slope = np.convolve(np.diff(curve), np.ones(100) / 100, "valid") / 1.25e-5
    assert np.abs(np.diff(slope, n=1)).max() < 0.01
    assert curve[-1] == pytest.approx(1)
    assert 0.9 < float(compress(np.ones((1, 1), np.float32), 0.85)[0, 0]) < 1


def test_a_step_wedge_stays_in_its_order_through_the_whole_look() -> None:
    wedge = np.repeat(np.arange(0, 256, 17, dtype=np.uint8), 40)
    image = np.repeat(np.broadcast_to(wedge, (200, len(wedge)))[..., None], 3, axis=2).copy()
    grey = make_monochrome(image, np.ones(image.shape[:2], np.float32), LOOK)
    centres = grey[100, 20::40].astype(int)
    assert (np.diff(centres) > 0).all()


def test_levels_and_bend_are_bounded_and_of_the_subject() -> None:
    tones, alpha = np.full((50, 50), 0.9, np.float32), np.zeros((50, 50), np.float32)
    tones[10:40, 10:40] = np.linspace(0.3, 0.5, 900, dtype=np.float32).reshape(30, 30)
    alpha[10:40, 10:40] = 1
    assert find_levels(tones, alpha) == (0.06, 0.8)
    assert find_bend(tones, alpha) == pytest.approx(1, abs=1e-3)
    assert find_bend(tones / 8, alpha) == 0.8
    assert find_bend(np.full_like(tones, 0.95), alpha) == 1.25


def test_local_contrast_deepens_texture_and_leaves_a_flat_tone() -> None:
    alpha = np.ones((200, 160), np.float32)
    texture = 0.5 + np.random.default_rng(0).normal(0, 0.02, alpha.shape).astype(np.float32)
    assert enhance(texture, alpha, 0.5).std() > 1.3 * texture.std()
    flat = np.full_like(alpha, 0.5)
    assert np.abs(enhance(flat, alpha, 0.5) - enhance(flat, alpha, 0.0)).max() < 1e-5


def test_an_edge_casts_hardly_a_halo() -> None:
    """An unsharp mask of the same strength would overshoot by a quarter of the step, 0.11."""
    edge = np.where(np.arange(400) < 200, 0.3, 0.75).astype(np.float32)
    tones, alpha = np.broadcast_to(edge, (300, 400)).copy(), np.ones((300, 400), np.float32)
    change = (enhance(tones, alpha, 0.5) - enhance(tones, alpha, 0.0))[150]
    assert np.abs(change).max() < 0.03


@pytest.mark.parametrize("tone", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("behind", [0.0, 1.0])
def test_the_silhouette_is_no_edge_to_local_contrast(tone: float, behind: float) -> None:
    alpha = np.where(scene(height=1500, width=1200)[1] > 0.5, np.float32(1), np.float32(0))
    tones = np.where(alpha > 0, np.float32(tone), np.float32(behind))
    change = enhance(tones, alpha, 0.5) - enhance(tones, alpha, 0.0)
    assert np.abs(change[alpha > 0]).max() < 1e-4


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 255), st.integers(0, 100))
def test_the_background_casts_nothing_on_the_subject(colour: int, seed: int) -> None:
    image, alpha = scene(seed)
    hidden = alpha == 0
    other = image.copy()
    other[hidden] = colour
    grey, changed = make_monochrome(image, alpha, LOOK), make_monochrome(other, alpha, LOOK)
    assert hidden.any()
    assert np.array_equal(grey[~hidden], changed[~hidden])


def test_the_look_leaves_its_inputs_alone() -> None:
    image, alpha = scene()
    image.setflags(write=False)
    alpha.setflags(write=False)
    grey = make_monochrome(image, alpha, LOOK)
    assert grey.dtype == np.uint8
    assert grey.shape == alpha.shape


def test_it_is_bit_identical_across_runs_and_threads() -> None:
    image, alpha = scene(height=1500, width=1200)
    threads = cv2.getNumThreads()
    try:
        greys = []
        for count in (1, 2, 5, 2):
            cv2.setNumThreads(count)
            greys.append(make_monochrome(image, alpha, LOOK))
    finally:
        cv2.setNumThreads(threads)
    assert all(np.array_equal(greys[0], grey) for grey in greys)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (3, 2)])
@pytest.mark.parametrize("opacity", [0.0, 1.0])
def test_any_size_and_no_subject_at_all_give_a_picture(shape: tuple[int, int], opacity: float) -> None:
    grey = make_monochrome(np.full((*shape, 3), 120, np.uint8), np.full(shape, opacity, np.float32), LOOK)
    assert grey.shape == shape
