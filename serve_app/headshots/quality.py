"""Whether a photo is good enough for a headshot, measured on its subject before anything expensive is done.

Sharpness is the variance of the Laplacian of luma (Pech-Pacheco et al., "Diatom autofocusing in brightfield
microscopy", ICPR 2000), which depends on how large the photo is: the replaced service took it at full size and asked
for 80. Here the photo is first shrunk to a long edge of 1500 pixels, the shortest that is accepted, so that all
accepted photos are judged alike and sensor noise, which alone can reach 80 at full size, is averaged away.

How 40 was found. Twelve real pet photos of 1100 to 5026 pixels, shrunk to 1500 at most, measure 48 to 4272, but for
one frame of a video, soft to the eye, with 17. Blurred there by a Gaussian of 1.5 pixels, three in a print of 3000 and
plain to see, they measure 2 to 47, by one of 2 pixels 2 to 17. 40 lets through what looks sharp and stops nearly all
that is visibly blurred, soft white coats (48 to 75) being the closest case.

What decides most like "80 at full size of 12 megapixels" is 250: fifteen synthetic scenes of occluding discs and 1/f
noise under known blur say so (92 % of decisions alike). It is not taken over: of those twelve photos it calls seven
blurred, six of which are sharp to the eye. Noise, which alone can reach 80 at full size, had hidden how stern 80 was.
Measured on the subject alone: a blurred background is no fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from serve_app.errors import HeadshotRejected
from serve_app.headshots.matting import Alpha, Rgb
from serve_app.settings_headshots import HeadshotSettings

NORMAL_EDGE = 1500  # pixels; see above. Nothing is enlarged to it
_INSIDE = 0.5  # alpha from which a pixel counts as the subject's
_DARK, _BRIGHT = 5, 250  # luma of 255; JPEG and tone curves keep clipped tones from being exactly 0 or 255
# Half-transparent alpha over all alpha. A network that saw no subject spreads doubt everywhere, 0.6 to 1 on textures,
# noise and flat colours, and where it saw no more of a pet than an eye it was 0.35; 32 pets had 0.02 to 0.15.
_MOST_DOUBT = 0.3
_FEWEST_PIXELS = 9  # at the normalized size; of fewer no statistic says anything


@dataclass(frozen=True)
class Quality:
    """`metrics` is flat and JSON-able: `h`, `w` of the photo in pixels; `blur_var` at the normalized size;
    `mean_luminance` (of luma) 0..1; the shares 0..1 `clipped_dark` and `clipped_bright` of the subject,
    `subject_share` of the photo; `subject_doubt` 0..1. `reasons` are codes in the order of `REASONS`.
    """

    passed: bool
    metrics: Mapping[str, float | int]
    reasons: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        """As stored and answered: `{pass, metrics, reasons}`."""
        return {"pass": self.passed, "metrics": dict(self.metrics), "reasons": list(self.reasons)}


@dataclass(frozen=True, slots=True)
class _Limit:
    fails: Callable[[Mapping[str, float | int], HeadshotSettings], bool]
    sentence: str
    """With the metrics' names and `limits`, the settings, as fields."""


def _is_lost(metrics: Mapping[str, float | int]) -> bool:
    return metrics["subject_share"] == 0 or metrics["subject_doubt"] > _MOST_DOUBT


REASONS: Mapping[str, _Limit] = MappingProxyType(
    {
        "image_too_small": _Limit(
            lambda m, limits: max(m["h"], m["w"]) < limits.min_long_edge,
            "it is {w} × {h} pixels, and its long edge must have {limits.min_long_edge} at least",
        ),
        "image_blurry": _Limit(
            lambda m, limits: m["blur_var"] < limits.min_sharpness,
            "its sharpness is {blur_var:.0f}, and {limits.min_sharpness:.0f} is needed",
        ),
        "image_too_dark": _Limit(
            lambda m, limits: m["mean_luminance"] < limits.min_luminance or m["clipped_dark"] > limits.max_clipped,
            "the pet is too dark: its mean luminance is {mean_luminance:.2f} ({limits.min_luminance:.2f} at least) and "
            "{clipped_dark:.0%} of it is black ({limits.max_clipped:.0%} at most)",
        ),
        "image_too_bright": _Limit(
            lambda m, limits: m["mean_luminance"] > limits.max_luminance or m["clipped_bright"] > limits.max_clipped,
            "the pet is too bright: its mean luminance is {mean_luminance:.2f} ({limits.max_luminance:.2f} at most), "
            "{clipped_bright:.0%} of it is white ({limits.max_clipped:.0%} at most)",
        ),
        "subject_not_found": _Limit(
            lambda m, _: _is_lost(m), "no pet stands out in it; send a photo of one pet against a calm background"
        ),
        "subject_too_small": _Limit(
            lambda m, limits: not _is_lost(m) and m["subject_share"] < limits.min_subject,
            "the pet covers {subject_share:.1%} of it, and {limits.min_subject:.1%} is needed",
        ),
    }
)
"""Reason codes in their fixed order. They are stored and switched on by the app: never rename one."""


def assess(image: Rgb, coarse: Alpha, thresholds: HeadshotSettings) -> Quality:
    """Measure a photo [H, W, 3] uint8 RGB under its coarse alpha, [h, w] of any size and any proportions.

    Sharpness and exposure are the subject's, and the whole photo's where no subject was found.
    """
    luma = _shrink(image)
    height, width = luma.shape
    subject = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR) >= _INSIDE
    if subject.sum() < _FEWEST_PIXELS:
        subject = np.ones_like(subject)
    tones = luma[subject]
    metrics: dict[str, float | int] = {
        "h": image.shape[0],
        "w": image.shape[1],
        "blur_var": round(float(cv2.Laplacian(luma, cv2.CV_32F)[subject].var(dtype=np.float64)), 2),
        "mean_luminance": round(float(tones.mean(dtype=np.float64)) / 255, 4),
        "clipped_dark": round(float((tones <= _DARK).mean()), 4),
        "clipped_bright": round(float((tones >= _BRIGHT).mean()), 4),
        "subject_share": round(float((coarse >= _INSIDE).mean()), 4),
        "subject_doubt": round(_doubt(coarse), 4),
    }
    reasons = tuple(code for code, limit in REASONS.items() if limit.fails(metrics, thresholds))
    return Quality(not reasons, metrics, reasons)


def check(quality: Quality, thresholds: HeadshotSettings) -> None:
    """Raise `HeadshotRejected` when there is no subject, and under the policy `reject` for any reason at all."""
    if quality.passed or (thresholds.policy == "report" and "subject_not_found" not in quality.reasons):
        return
    deciding = quality.reasons if thresholds.policy == "reject" else ("subject_not_found",)
    found = "; ".join(REASONS[code].sentence.format(**quality.metrics, limits=thresholds) for code in deciding)
    raise HeadshotRejected(f"No headshot can be made of this photo: {found}.", quality.describe())


def _shrink(image: Rgb) -> NDArray[np.uint8]:
    """Luma [h, w] uint8 at the normalized size."""
    height, width = image.shape[:2]
    scale = min(1.0, NORMAL_EDGE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)


def _doubt(coarse: Alpha) -> float:
    total = float(coarse.sum(dtype=np.float64))
    return float(np.minimum(coarse, 1 - coarse).sum(dtype=np.float64)) / total if total > 0 else 1.0
