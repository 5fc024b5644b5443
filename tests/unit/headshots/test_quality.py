from __future__ import annotations

import json
import pickle

import cv2
import numpy as np
import pytest

from serve_app.errors import HeadshotRejected, PermanentError
from serve_app.headshots.quality import REASONS, assess, check
from serve_app.settings_headshots import HeadshotSettings

LIMITS = HeadshotSettings()
REJECT = HeadshotSettings(policy="reject")
HEIGHT, WIDTH = 1200, 1600


def fur(mean: float = 120, contrast: float = 30, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Sharp texture, RGB."""
    grain = np.random.default_rng(0).standard_normal((height, width, 1)) * contrast + mean
    return np.repeat(np.clip(grain, 0, 255).astype(np.uint8), 3, axis=2)


def disc(share: float = 0.3, side: int = 320) -> np.ndarray:
    """Alpha of one round subject, with the soft edge that a network draws."""
    alpha = np.zeros((side, side), np.float32)
    cv2.circle(alpha, (side // 2, side // 2), round(side * (share / np.pi) ** 0.5), 1.0, -1)
    return cv2.GaussianBlur(alpha, (0, 0), 1)


def test_a_good_photo_passes_with_all_metrics_as_plain_json() -> None:
    quality = assess(fur(), disc(), LIMITS)
    assert quality.passed
    assert quality.reasons == ()
    assert set(quality.metrics) == {
        "h", "w", "blur_var", "mean_luminance", "clipped_dark", "clipped_bright", "subject_share", "subject_doubt"
    }  # fmt: skip
    assert (quality.metrics["h"], quality.metrics["w"]) == (HEIGHT, WIDTH)
    assert json.loads(json.dumps(quality.describe())) == quality.describe()
    assert quality.metrics["subject_share"] == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize(
    ("image", "coarse", "reasons"),
    [
        (fur(height=900), disc(), ()),
        (fur(height=900, width=1499), disc(), ("image_too_small",)),
        (cv2.GaussianBlur(fur(), (0, 0), 4), disc(), ("image_blurry",)),
        (fur(mean=8), disc(), ("image_too_dark",)),
        (fur(mean=250), disc(), ("image_too_bright",)),
        (fur(), disc(0.02), ("subject_too_small",)),
        (fur(), np.zeros((320, 320), np.float32), ("subject_not_found",)),
        (fur(), np.random.default_rng(0).random((320, 320), np.float32), ("subject_not_found",)),
        (
            np.zeros((700, 900, 3), np.uint8),
            np.zeros((320, 320), np.float32),
            ("image_too_small", "image_blurry", "image_too_dark", "subject_not_found"),
        ),
    ],
)
def test_each_fault_has_its_code_and_codes_have_their_order(
    image: np.ndarray, coarse: np.ndarray, reasons: tuple[str, ...]
) -> None:
    quality = assess(image, coarse, LIMITS)
    assert quality.reasons == reasons
    assert quality.passed == (not reasons)


def test_the_codes_are_the_published_ones() -> None:
    assert list(REASONS) == [
        "image_too_small", "image_blurry", "image_too_dark", "image_too_bright", "subject_not_found",
        "subject_too_small",
    ]  # fmt: skip


def test_a_blurred_or_burnt_background_is_no_fault_and_a_blurred_subject_is() -> None:
    sharp, soft = fur(), cv2.GaussianBlur(fur(), (0, 0), 6)
    inside = cv2.resize(disc(), (WIDTH, HEIGHT))[..., None] >= 0.4
    burnt = np.where(inside, sharp, 255).astype(np.uint8)
    assert assess(np.where(inside, sharp, soft), disc(), LIMITS).passed
    assert assess(burnt, disc(), LIMITS).passed
    assert assess(np.where(inside, soft, sharp), disc(), LIMITS).reasons == ("image_blurry",)


def test_sharpness_is_that_of_a_normalized_size() -> None:
    """The same picture, four times the pixels: at full size its Laplacian has a small fraction of the variance."""
    small = cv2.GaussianBlur(fur(contrast=60), (0, 0), 1)
    large = cv2.resize(small, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    of_small, of_large = (assess(image, disc(), LIMITS).metrics["blur_var"] for image in (small, large))
    assert of_large == pytest.approx(of_small, rel=0.25)


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (2000, 1), (3, 3)])
def test_any_size_is_measured(shape: tuple[int, int]) -> None:
    quality = assess(np.full((*shape, 3), 90, np.uint8), disc(), LIMITS)
    assert not quality.passed
    json.dumps(quality.describe(), allow_nan=False)


def test_below_the_limits_the_policy_decides() -> None:
    blurred = assess(cv2.GaussianBlur(fur(), (0, 0), 4), disc(), LIMITS)
    check(blurred, LIMITS)
    with pytest.raises(HeadshotRejected, match=r"sharpness is .*40 is needed") as caught:
        check(blurred, REJECT)
    assert caught.value.quality == blurred.describe()
    check(assess(fur(), disc(), REJECT), REJECT)


@pytest.mark.parametrize("limits", [LIMITS, REJECT])
def test_without_a_subject_there_is_no_headshot_whatever_the_policy(limits: HeadshotSettings) -> None:
    with pytest.raises(HeadshotRejected, match="no pet stands out"):
        check(assess(fur(), np.zeros((320, 320), np.float32), limits), limits)


def test_every_reason_makes_a_sentence() -> None:
    worst = assess(np.zeros((70, 90, 3), np.uint8), disc(0.01), REJECT)
    bright = assess(fur(mean=255), disc(), REJECT)
    for quality in (worst, bright):
        with pytest.raises(HeadshotRejected) as caught:
            check(quality, REJECT)
        assert "{" not in caught.value.message


def test_a_rejection_survives_the_way_between_processes() -> None:
    original = HeadshotRejected("No headshot.", {"pass": False, "metrics": {"h": 3}, "reasons": ["image_blurry"]})
    copy = pickle.loads(pickle.dumps(original))  # noqa: S301 - our own bytes
    assert isinstance(copy, PermanentError)
    assert (copy.code, copy.message, copy.quality) == ("headshot_rejected", original.message, original.quality)
