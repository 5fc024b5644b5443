"""The house look: from the subject's colours to one grey tone per pixel.

Balance and mix work on linear light; levels, local contrast and the tone curve on sRGB-encoded tones. The replaced
service did all of it encoded. Why not any more, and why not all of it linear:

- The mix is a filter before the lens, and a filter acts on light. Encoded, strong colours come out too dark: a red coat
  (180, 30, 30) at 71 of 255, where its luminance is worth 92 and the linear mix gives 102; ginger fur, a pink tongue
  and a blue blanket 6 to 8 levels too dark. Greys are the same in both, and so are most coats within a few levels.
- Local contrast is for the eye, and equal steps of encoded tone look about equal. Done in linear light at strength 0.6,
  29 to 58 % of the dark fur (tones 0.08 to 0.25) of four photos fell to black, encoded 0.3 to 17 %; dark fur became
  crisper than the middle tones and light fur, where a headshot has most to show, less crisp (1.10 to 1.18 against 1.15
  to 1.26 times the detail).
- A shoulder from 0.85 of encoded tone has the brightest 30 % of light to roll off in; of linear light it would be the
  brightest 15 %, and a white coat would end abruptly.

Local contrast is 0.5 by default, not 0.6: phones sharpen already, and at 0.6 their fur looked drawn with a pen at full
size. At a step of 0.45 in tone it overshoots by 0.027, an unsharp mask of that strength by 0.11. Levels, the bend of
the middle tones and the opened shadows are bounded, so that dull light is corrected while a black dog stays black and
a white cat white.
"""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from serve_app.headshots.matting import Alpha, Rgb
from serve_app.settings_headshots import HeadshotSettings

Grey = NDArray[np.uint8]
"""[H, W] uint8, sRGB-encoded."""
Tones = NDArray[np.float32]
"""[H, W] float32, sRGB-encoded; 0 black to 1 white, and beyond 1 before the shoulder."""

WEIGHTS = (0.27, 0.67, 0.06)  # R, G, B of linear light
_MOST_GAIN = 1.25  # of one channel; a ginger cat is orange in white light, and its colour is not the light's
_BINS = 1024
_CLIPPED = 0.002  # share of the subject that may become black, or white
_LIFTED_BLACK = 0.06  # a darkest tone above it is a grey pet, not a veil of light
_DULL_WHITE = 0.80  # a brightest tone below it is a dark pet, not a short exposure
_BLACK, _WHITE = 0.01, 0.95  # what local contrast adds beyond them is bent by the tone curve, not cut off
_MIDDLE = (0.40, 0.66)  # the median tone of a subject that is neither too dark nor too bright to see its fur
_BEND = (0.8, 1.25)  # so far at most: a black dog stays a black dog
_TOE = np.float32(0.04)  # tone below which shadows are bent into black instead of cut off
_BRIGHTEST = 1.25  # tone that becomes white; local contrast makes few brighter ones
_SMALL_EDGE = 750  # pixels; the mean is smooth, and a sixteenth of the print's pixels is enough to find it
_REACH = 1 / 60  # of the long edge: the width of an eye, an ear's fold, a tuft
_EDGE = 0.10  # tones further apart are an edge and stay as they are
_LIFT = 0.4  # opens shadows: by 0.03 at tones of 0.1 to 0.25, by nothing at black and in the lights
_TINY = np.float32(1e-4)


def make_monochrome(image: Rgb, alpha: Alpha, settings: HeadshotSettings) -> Grey:
    """The look of a subject's colours [H, W, 3] uint8 sRGB under its alpha [H, W], which it reads and never changes.

    Only pixels of some alpha count. Same input, same grey, whatever the number of threads.
    """
    tones = encode(mix(image, find_gains(image, alpha)))
    tones = stretch(tones, *find_levels(tones, alpha))
    tones = bend(tones, find_bend(tones, alpha))
    tones = enhance(tones, alpha, settings.local_contrast)
    return np.asarray(np.rint(compress(tones, settings.shoulder) * 255), np.uint8)


def find_gains(image: Rgb, alpha: Alpha) -> tuple[float, float, float]:
    """Gray-world gains for R, G, B in linear light, from the subject's mean; they leave its mean tone alone.

    Bounded: no channel is changed by more than a quarter against another's mean. G. Buchsbaum, "A spatial processor
    model for object colour perception", Journal of the Franklin Institute 1980.
    """
    total = float(alpha.sum(dtype=np.float64))
    if total == 0:
        return 1.0, 1.0, 1.0
    means = np.array([float((_LINEAR[image[..., c]] * alpha).sum(dtype=np.float64)) / total for c in range(3)])
    means = np.maximum(means, 1e-4)
    weights = np.array(WEIGHTS)
    level = float(weights @ means)
    gains = np.clip(level / means, 1 / _MOST_GAIN, _MOST_GAIN)
    gains *= level / float(weights @ (gains * means))
    red, green, blue = gains.tolist()
    return red, green, blue


def mix(image: Rgb, gains: tuple[float, float, float]) -> Tones:
    """Linear light 0..1 [H, W] float32 of sRGB [H, W, 3] uint8."""
    red, green, blue = ((_LINEAR * np.float32(w * g)) for w, g in zip(WEIGHTS, gains, strict=True))
    total: Tones = red[image[..., 0]]
    total += green[image[..., 1]]
    total += blue[image[..., 2]]
    return total


def encode(light: Tones) -> Tones:
    """The sRGB transfer function (IEC 61966-2-1) of linear light 0..1, float32."""
    high = 1.055 * np.power(np.maximum(light, 0.0031308), np.float32(1 / 2.4)) - 0.055
    return np.where(light <= 0.0031308, light * np.float32(12.92), high).astype(np.float32)


def find_levels(tones: Tones, alpha: Alpha) -> tuple[float, float]:
    """The subject's darkest and brightest tone (weighted by alpha), as far as they may be moved to black and white.

    Bounded, so that a black dog stays black, a white cat white, and noise in the dark stays there.
    """
    return (
        min(_find_quantile(tones, alpha, _CLIPPED), _LIFTED_BLACK),
        max(_find_quantile(tones, alpha, 1 - _CLIPPED), _DULL_WHITE),
    )


def stretch(tones: Tones, low: float, high: float) -> Tones:
    """Move `low` to `_BLACK` and `high` to `_WHITE`, linearly; what falls outside is for `compress` to bend."""
    return (tones - np.float32(low)) * np.float32((_WHITE - _BLACK) / (high - low)) + np.float32(_BLACK)


def find_bend(tones: Tones, alpha: Alpha) -> float:
    """The exponent that brings the subject's median tone into the middle range, as far as it may: 1 leaves it alone."""
    median = min(max(_find_quantile(tones, alpha, 0.5), 0.01), 0.99)
    wanted = min(max(median, _MIDDLE[0]), _MIDDLE[1])
    return min(max(float(np.log(wanted) / np.log(median)), _BEND[0]), _BEND[1])


def bend(tones: Tones, exponent: float) -> Tones:
    """Tones to the power of `exponent`; what lies below black stays there."""
    return np.where(tones > 0, np.power(np.maximum(tones, 0), np.float32(exponent)), tones).astype(np.float32)


def enhance(tones: Tones, alpha: Alpha, strength: float) -> Tones:
    """Local contrast: what differs from an edge-aware mean of its surroundings differs 1 + `strength` times as much.

    The mean is a guided filter (He et al., "Guided Image Filtering", TPAMI 2013; coefficients found on a small picture
    as in He and Sun, "Fast Guided Filter", 2015) whose every average is weighted by alpha: the background, of whatever
    colour, casts no halo. Gaussian windows instead of running box sums, because a sum that runs depends in its last
    bits on where a thread began.
    """
    height, width = tones.shape
    shrink = max(1.0, max(height, width) / _SMALL_EDGE)
    size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
    sigma = max(size) * _REACH
    weight = _resize(alpha, size)
    small = cast(Tones, _resize(tones * alpha, size) / np.maximum(weight, _TINY))

    def average(values: Tones) -> Tones:
        blurred = cv2.GaussianBlur(values * weight, (0, 0), sigma)
        return cast(Tones, blurred / np.maximum(cv2.GaussianBlur(weight, (0, 0), sigma), _TINY))

    mean = average(small)
    spread = np.maximum(average(cast(Tones, small * small)) - mean * mean, 0)
    flat = cast(Tones, np.float32(_EDGE * _EDGE) / (spread + np.float32(_EDGE * _EDGE)))
    slope, offset = 1 - average(flat), average(cast(Tones, flat * mean))
    base = _resize(slope, (width, height)) * tones + _resize(offset, (width, height))
    room = np.clip(4 * base * (1 - base), 0, 1)  # less where there is no room for it: in black and in white
    lift = np.float32(_LIFT) * np.maximum(base, 0) * (1 - base) ** 4
    return cast(Tones, tones + lift + np.float32(strength) * room * (tones - base))


def compress(tones: Tones, start: float) -> Tones:
    """The tone curve, to 0..1: straight between a soft toe at black and a shoulder from `start` to white.

    Strictly monotone below `_BRIGHTEST`, which becomes white, and smooth: its slope is 1 at both ends of the straight
    part. The shoulder is the extended curve of Reinhard et al., "Photographic Tone Reproduction", SIGGRAPH 2002.
    """
    room, reach = np.float32(1 - start), np.float32((_BRIGHTEST - start) / (1 - start))
    over = np.clip((tones - np.float32(start)) / room, 0, reach)
    bright = np.float32(start) + room * over * (1 + over / (reach * reach)) / (1 + over)
    dark = _TOE * np.exp(np.minimum(tones, _TOE) / _TOE - 1)
    straight = np.where(tones < _TOE, dark, np.minimum(tones, np.float32(start)))
    return cast(Tones, np.clip(np.where(tones > start, bright, straight), 0, 1).astype(np.float32))


def _find_quantile(tones: Tones, alpha: Alpha, share: float) -> float:
    """The tone that `share` of the subject stays below, from a sample of its pixels; 0.5 without a subject."""
    stride = max(1, max(tones.shape) // _SMALL_EDGE)
    sample, weights = tones[::stride, ::stride], alpha[::stride, ::stride].astype(np.float64)
    counts, _ = np.histogram(np.clip(sample, 0, 1), bins=_BINS, range=(0, 1), weights=weights)
    below = np.cumsum(counts)
    if below[-1] == 0:
        return 0.5
    return (float(np.searchsorted(below, share * below[-1])) + 0.5) / _BINS


def _resize(values: Tones, size: tuple[int, int]) -> Tones:
    shrinks = size[0] < values.shape[1] or size[1] < values.shape[0]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(values, size, interpolation=method), np.float32)


def _decode_table() -> NDArray[np.float32]:
    tones = np.arange(256) / 255
    return np.where(tones <= 0.04045, tones / 12.92, ((tones + 0.055) / 1.055) ** 2.4).astype(np.float32)


_LINEAR = _decode_table()
