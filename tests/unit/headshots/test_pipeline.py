from __future__ import annotations

import io
import json

import cv2
import numpy as np
import pytest
from PIL import Image

from serve_app.errors import HeadshotRejected
from serve_app.headshots.pipeline import STAGES, Headshot, fit, make_headshot
from serve_app.settings import Settings
from serve_app.settings_headshots import HeadshotSettings
from tests.unit.headshots.silhouettes import sitting_cat

SMALL = HeadshotSettings(preview_long_edge=200, print_long_edge=400)


class KnownAlpha:
    """In the network's place: the answer is known, and of the network's size."""

    def __init__(self, alpha: np.ndarray) -> None:
        self._alpha = cv2.resize(alpha, (320, 320), interpolation=cv2.INTER_AREA)

    def predict(self, image: np.ndarray) -> np.ndarray:
        return self._alpha


def photo(scale: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """A cat with fur on a green meadow, and its alpha at the photo's size."""
    alpha = cv2.resize(sitting_cat()[0], None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    grain = np.random.default_rng(0).normal(0, 25, alpha.shape)[..., None]
    image = np.where(alpha[..., None] > 0.5, np.array((150, 120, 90)), np.array((60, 140, 50))) + grain
    return np.clip(image, 0, 255).astype(np.uint8), alpha


def make(settings: HeadshotSettings = SMALL, scale: int = 2) -> Headshot:
    image, alpha = photo(scale)
    return make_headshot(image, KnownAlpha(alpha), settings, lambda *_: None)


def decode(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture(scope="module")
def headshot() -> Headshot:
    return make()


def test_print_and_preview_are_grey_4_by_5_and_of_the_settings_sizes(headshot: Headshot) -> None:
    for data, size in ((headshot.print, (400, 320)), (headshot.preview, (200, 160))):
        pixels = decode(data)
        assert pixels.shape == (*size, 4)
        assert np.array_equal(pixels[..., 0], pixels[..., 1])
        assert np.array_equal(pixels[..., 0], pixels[..., 2])
        assert 0.2 < (pixels[..., 3] == 255).mean() < 0.8
        assert (pixels[:5, :, 3] == 0).all()


def test_hidden_pixels_have_a_tone_of_the_subject(headshot: Headshot) -> None:
    pixels = decode(headshot.print)
    above = pixels[:200]
    solid, hidden = (above[above[..., 3] == opacity][:, 0] for opacity in (255, 0))
    assert np.quantile(solid, 0.01) < hidden.min() <= hidden.max() < np.quantile(solid, 0.99)


def test_the_quality_carries_the_frame_and_is_plain_json(headshot: Headshot) -> None:
    described = headshot.quality.describe()
    assert json.loads(json.dumps(described)) == described
    assert described["reasons"] == ["image_too_small"]
    assert described["metrics"]["head_confidence"] > 0.5
    assert described["metrics"]["frame_height"] * 4 == described["metrics"]["frame_width"] * 5


def test_every_stage_is_timed(headshot: Headshot) -> None:
    assert tuple(headshot.seconds) == STAGES
    assert all(seconds >= 0 for seconds in headshot.seconds.values())


def test_the_same_photo_gives_the_same_bytes(headshot: Headshot) -> None:
    again = make()
    assert again.print == headshot.print
    assert again.preview == headshot.preview


def test_the_fade_leaves_the_head_bit_identical_and_takes_the_lower_part(headshot: Headshot) -> None:
    faded, plain = decode(headshot.print), decode(make(SMALL.model_copy(update={"neck_fade": 0.0})).print)
    metrics = headshot.quality.metrics
    scale = 400 / metrics["frame_height"]
    chin = int((metrics["head_bottom"] - metrics["frame_top"]) * scale)
    assert chin > 150
    assert np.array_equal(faded[:chin], plain[:chin])
    assert np.array_equal(faded[:300], plain[:300])
    assert plain[395:, :, 3].any()
    assert not faded[399:, :, 3].any()


def test_the_look_does_not_touch_alpha(headshot: Headshot) -> None:
    other = make(SMALL.model_copy(update={"local_contrast": 0.0, "shoulder": 0.5}))
    assert np.array_equal(decode(other.print)[..., 3], decode(headshot.print)[..., 3])
    assert not np.array_equal(decode(other.print)[..., 0], decode(headshot.print)[..., 0])


def test_nothing_is_enlarged() -> None:
    large = make(HeadshotSettings(preview_long_edge=8000, print_long_edge=8000))
    metrics = large.quality.metrics
    assert decode(large.print).shape[:2] == (metrics["frame_height"], metrics["frame_width"])
    assert large.preview == large.print


def test_what_lies_beyond_the_photo_is_transparent() -> None:
    image, alpha = photo()
    image, alpha = image[80:], alpha[80:]  # the ears touch the photo's edge but for a few rows
    result = make_headshot(image, KnownAlpha(alpha), SMALL, lambda *_: None)
    top = result.quality.metrics["frame_top"]
    assert top < 0
    beyond = int(-top * 400 / result.quality.metrics["frame_height"])
    assert not decode(result.print)[:beyond, :, 3].any()


def test_steps_are_reported_in_order_and_end_the_work_when_they_raise() -> None:
    seen: list[tuple[int, int]] = []

    def stop(done: int, of: int) -> None:
        seen.append((done, of))
        if done == 3:
            raise InterruptedError

    image, alpha = photo()
    with pytest.raises(InterruptedError):
        make_headshot(image, KnownAlpha(alpha), SMALL, stop)
    assert seen == [(done, len(STAGES)) for done in range(4)]
    steps: list[int] = []
    make_headshot(image, KnownAlpha(alpha), SMALL, lambda done, _: steps.append(done))
    assert steps == list(range(len(STAGES) + 1))


def test_a_rejection_comes_before_the_expensive_stages() -> None:
    image, alpha = photo()
    steps: list[int] = []
    with pytest.raises(HeadshotRejected) as caught:
        make_headshot(image, KnownAlpha(0 * alpha), SMALL, lambda done, _: steps.append(done))
    assert caught.value.quality["reasons"] == ["image_too_small", "subject_not_found"]
    assert steps == [0, 1]
    with pytest.raises(HeadshotRejected):
        make(SMALL.model_copy(update={"policy": "reject"}))


@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (300, 2), (7, 5)])
def test_photos_of_any_size_get_a_headshot_under_report(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    result = make_headshot(image, KnownAlpha(sitting_cat()[0]), SMALL, lambda *_: None)
    assert "image_too_small" in result.quality.reasons
    height, width = decode(result.print).shape[:2]
    assert width * 5 == height * 4


@pytest.mark.parametrize(
    ("long_edge", "height", "size"), [(3000, 9000, (2400, 3000)), (64, 90, (48, 60)), (9, 3, (4, 5))]
)
def test_sizes_fit_exactly(long_edge: int, height: int, size: tuple[int, int]) -> None:
    assert fit(long_edge, height) == size


def test_the_default_sizes_need_no_rounding() -> None:
    headshots = Settings(_env_file=None).headshots
    assert fit(headshots.print_long_edge, 10_000)[1] == headshots.print_long_edge
    assert fit(headshots.preview_long_edge, 10_000)[1] == headshots.preview_long_edge
