"""Colours at the edge: the subject's own, whatever was behind it."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.headshots import foreground
from serve_app.headshots.foreground import estimate_foreground
from serve_app.headshots.matting import Alpha, Rgb

FUR, GREEN = np.array([200, 120, 60]), np.array([20, 200, 40])


def soft_edge(height: int, width: int) -> Alpha:
    """1 on the left, 0 on the right, a ramp of 40 pixels in the middle."""
    ramp = np.clip((width / 2 + 20 - np.arange(width)) / 40, 0, 1).astype(np.float32)
    return np.tile(ramp, (height, 1))


def mix(alpha: Alpha) -> Rgb:
    return (alpha[..., None] * FUR + (1 - alpha[..., None]) * GREEN + 0.5).astype(np.uint8)


@pytest.mark.parametrize("base_px", [4000, 150])
def test_half_transparent_pixels_lose_the_background(base_px: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreground, "BASE_PX", base_px)
    alpha = soft_edge(200, 300)
    photo = mix(alpha)
    edge = (alpha > 0.1) & (alpha < 0.9)
    assert np.abs(photo[edge] - FUR.astype(float)).max() > 60
    assert np.abs(estimate_foreground(photo, alpha)[edge] - FUR.astype(float)).max() < 12


def test_on_another_background_nothing_of_the_first_shows() -> None:
    alpha = soft_edge(200, 300)
    colours = estimate_foreground(mix(alpha), alpha)
    on_white = alpha[..., None] * colours + (1 - alpha[..., None]) * 255
    wanted = alpha[..., None] * FUR + (1 - alpha[..., None]) * 255
    assert np.abs(on_white - wanted).max() < 8


def test_opaque_pixels_are_the_photos_and_clear_ones_the_subjects() -> None:
    alpha = soft_edge(200, 300)
    photo = np.clip(mix(alpha) + np.random.default_rng(5).integers(-9, 10, (200, 300, 3)), 0, 255).astype(np.uint8)
    colours = estimate_foreground(photo, alpha)
    np.testing.assert_array_equal(colours[alpha == 1], photo[alpha == 1])
    beside = np.s_[:, 172:190]
    assert (alpha[beside] == 0).all()
    assert np.abs(colours[beside].astype(float) - FUR).max() < np.abs(colours[beside].astype(float) - GREEN).min()


def test_colours_and_alpha_still_mix_to_the_photo() -> None:
    """At half-transparent pixels with detail of their own the estimate must not invent what the photo excludes."""
    alpha = soft_edge(200, 300)
    photo = mix(alpha)
    colours = estimate_foreground(photo, alpha).astype(float)
    implied = (photo - alpha[..., None] * colours) / np.maximum(1 - alpha[..., None], 0.05)
    middle = (alpha > 0.3) & (alpha < 0.7)
    assert np.abs(implied[middle] - GREEN).mean() < 12


def test_detail_too_fine_for_the_small_estimate_survives_at_the_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreground, "BASE_PX", 40)
    alpha = soft_edge(200, 300)
    striped = np.broadcast_to(FUR, (200, 300, 3)).astype(float)
    striped = striped + np.where(np.arange(200) % 2, 30, -30)[:, None, None]
    photo = (alpha[..., None] * striped + (1 - alpha[..., None]) * GREEN + 0.5).astype(np.uint8)
    edge = (alpha > 0.6) & (alpha < 1)
    assert np.abs(estimate_foreground(photo, alpha)[edge] - striped[edge]).mean() < 15


def test_no_subject_gives_the_photo_and_only_subject_too() -> None:
    photo = np.random.default_rng(6).integers(0, 256, (60, 50, 3), dtype=np.uint8)
    for value in (0, 1):
        colours = estimate_foreground(photo, np.full((60, 50), value, np.float32))
        np.testing.assert_array_equal(colours, photo)
        assert colours is not photo


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (1, 3000), (3000, 1)])
def test_any_size_gives_colours(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(8)
    photo = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    colours = estimate_foreground(photo, rng.random(size, np.float32))
    assert colours.shape == photo.shape
    assert colours.dtype == np.uint8


def test_the_same_photo_gives_the_same_colours() -> None:
    alpha = soft_edge(300, 400)
    np.testing.assert_array_equal(estimate_foreground(mix(alpha), alpha), estimate_foreground(mix(alpha), alpha))
