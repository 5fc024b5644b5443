"""A headshot from beginning to end: cheap measures first, the rest inside the frame alone and at the print's size.

A stage works on what the one before left, and nothing of the photo's size is kept beside the photo itself: time and
memory beyond the decoded photo depend on the print's size, not on how many megapixels were sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from serve_app.headshots.composition import encode_png, fade_out, fill_transparent, shrink_premultiplied, to_bytes
from serve_app.headshots.foreground import estimate_foreground
from serve_app.headshots.framing import Frame, frame
from serve_app.headshots.matting import Alpha, Matting, Rgb
from serve_app.headshots.monochrome import Grey, make_monochrome
from serve_app.headshots.quality import Quality, assess, check
from serve_app.headshots.refinement import refine_alpha
from serve_app.headshots.silhouette import keep_subject
from serve_app.settings_headshots import HeadshotSettings

STAGES = ("matting", "quality", "framing", "refinement", "foreground", "look", "print", "preview")
_RATIO = (4, 5)  # width and height of every headshot


@dataclass(frozen=True, slots=True, eq=False)
class Headshot:
    """`preview` and `print` are PNG files; `seconds` maps each of `STAGES` to its wall time."""

    preview: bytes
    print: bytes
    quality: Quality
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Placement:
    """Where the visible part of the photo, `source`, lands in the print: rows and columns of both."""

    source: tuple[slice, slice]
    target: tuple[slice, slice]
    width: int
    height: int
    scale: float
    """Print pixels per photo pixel, 1 at most."""


def make_headshot(
    image: Rgb, matting: Matting, settings: HeadshotSettings, step: Callable[[int, int], None]
) -> Headshot:
    """Make both files of a photo [H, W, 3] uint8 sRGB, upright.

    `step(done, of)` is called before each stage and after the last; what it raises ends the work. Raises
    `HeadshotRejected` after the first two stages, and what `matting` raises.
    """
    clock = _Clock(step)
    with clock:
        coarse = matting.predict(image)
    with clock:
        quality = assess(image, coarse, settings)
        check(quality, settings)
    with clock:
        coarse = keep_subject(coarse)
        framed = frame(coarse, image.shape[1], image.shape[0], settings.neck_fade)
        quality = replace(quality, metrics={**quality.metrics, **framed.describe()})
        place = _place(framed, image, settings.print_long_edge)
        visible = _crop(image, place)
    with clock:
        alpha = refine_alpha(visible, _crop_coarse(coarse, image, place), grain_px=_find_grain(coarse, image, place))
    with clock:
        colours = estimate_foreground(visible, alpha)
    with clock:
        grey = make_monochrome(colours, alpha, settings)
        del colours, visible
    with clock:
        shown, opacity = _lay(grey, alpha, place, framed)
        print_file = encode_png(shown, opacity)
    with clock:
        size = fit(settings.preview_long_edge, place.height)
        preview = encode_png(*shrink_premultiplied(shown, opacity, *size)) if size[1] < place.height else print_file
    step(len(STAGES), len(STAGES))
    return Headshot(preview, print_file, quality, clock.seconds)


def fit(long_edge: int, height: int) -> tuple[int, int]:
    """Width and height, exactly 4 : 5, of the largest headshot within both a long edge and a height, in pixels."""
    units = max(1, min(long_edge, height) // _RATIO[1])
    return units * _RATIO[0], units * _RATIO[1]


class _Clock:
    """Times the stages in their order, and reports the step before each."""

    def __init__(self, step: Callable[[int, int], None]) -> None:
        self._step = step
        self._start = 0.0
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> None:
        self._step(len(self.seconds), len(STAGES))
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[STAGES[len(self.seconds)]] = time.perf_counter() - self._start


def _place(framed: Frame, image: Rgb, long_edge: int) -> _Placement:
    """What of the frame lies inside the photo, and where in the print."""
    width, height = fit(long_edge, framed.height)
    scale = height / framed.height
    rows = _overlap(framed.top, framed.height, image.shape[0], scale, height)
    columns = _overlap(framed.left, framed.width, image.shape[1], scale, width)
    return _Placement((rows[0], columns[0]), (rows[1], columns[1]), width, height, scale)


def _overlap(start: int, length: int, photo: int, scale: float, limit: int) -> tuple[slice, slice]:
    """Along one axis: photo pixels inside the frame, and the print's pixels (one at least) they become."""
    first, last = max(0, start), min(photo, start + length)
    low = min(limit - 1, round((first - start) * scale))
    high = min(limit, max(low + 1, round((last - start) * scale)))
    return slice(first, last), slice(low, high)


def _crop(image: Rgb, place: _Placement) -> Rgb:
    part = image[place.source]
    rows, columns = (span.stop - span.start for span in place.target)
    if (rows, columns) == part.shape[:2]:
        return np.ascontiguousarray(part)
    return np.asarray(cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)


def _crop_coarse(coarse: Alpha, image: Rgb, place: _Placement) -> Alpha:
    """The coarse alpha of the visible part, sampled twice as densely as it is, since its cells are cut anywhere."""
    cells = [side / pixels for side, pixels in zip(coarse.shape, image.shape[:2], strict=True)]
    starts = [span.start * cell for span, cell in zip(place.source, cells, strict=True)]
    spans = [(span.stop - span.start) * cell for span, cell in zip(place.source, cells, strict=True)]
    rows, columns = (max(2, int(np.ceil(2 * span))) for span in spans)
    steps = spans[1] / columns, spans[0] / rows
    matrix = np.array(
        [[steps[0], 0, starts[1] + steps[0] / 2 - 0.5], [0, steps[1], starts[0] + steps[1] / 2 - 0.5]], np.float64
    )
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    part = cv2.warpAffine(coarse, matrix, (columns, rows), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(np.clip(part, 0, 1), np.float32)


def _find_grain(coarse: Alpha, image: Rgb, place: _Placement) -> float:
    """Print pixels per cell of the coarse alpha."""
    return float(max(image.shape[0] / coarse.shape[0], image.shape[1] / coarse.shape[1]) * place.scale)


def _lay(grey: Grey, alpha: Alpha, place: _Placement, framed: Frame) -> tuple[Grey, Grey]:
    """Grey and 8-bit alpha at the print's size, faded."""
    shown, opacity = np.zeros((place.height, place.width), np.uint8), np.zeros((place.height, place.width), np.float32)
    shown[place.target], opacity[place.target] = grey, alpha
    shown = fill_transparent(shown, opacity)
    top, bottom = ((row - framed.top) * place.scale for row in (framed.fade_top, framed.fade_bottom))
    return shown, to_bytes(fade_out(opacity, top, bottom))
