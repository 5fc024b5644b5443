"""Which part of a photo the headshot shows: a 4:5 frame around the head, or around the subject where no head is found.

The frame may reach beyond the photo, where the headshot is transparent; but where the photo's edge cuts the subject
off, the frame ends there, too, if it can: an animal that ends in a straight line in mid-air looks like a mistake, at
the frame's own edge it looks like any portrait.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from serve_app.headshots.matting import Alpha
from serve_app.headshots.silhouette import FAINT, Box, Edges, Mask, bound, find_bulk, find_cuts, find_head, to_grid

# All of these are shares of the frame's height or width.
_HEAD_HEIGHT = 0.52  # of a headshot is head, ears included
_HEAD_WIDTH = 0.70
_MOST_HEAD = 0.80  # where less would show the photo's edge
_EYES = 0.45  # of the head's height lies above the eyes; between upright ears (0.5) and none (0.4)
_EYE_LINE = 1 / 3
_AIR = 0.06  # above the head, at least
_MARGIN = 0.04  # beside it, at least
_SUBJECT = 0.86  # of the frame's width or height is subject, at most, where the head is not known
_WIDE = 0.96  # the same where the photo cuts it off below: the larger, the less is missing
_UPPER = 0.6  # of the subject's height, from the top, is sure to hold its head
_TOWARDS_BODY = 0.25  # of the way from the head's middle to the subject's
_FADE_UNKNOWN = 0.6  # of the fade, where the head is not known and may reach lower than it looks
_FADE_LEAST = 0.7  # of that is spent in any case: a shorter one looks like a torn edge
_UNIT = 5  # rows per 4 columns


@dataclass(frozen=True, slots=True)
class Frame:
    """A part of the photo in its pixels: `width` : `height` is exactly 4 : 5, `top` and `left` may be negative.

    `head` is left, top, right, bottom of the head, ears included, of `confidence` 0..1, or None; it lies inside.
    `cuts` are the edges of the photo at which the head (the subject, where no head is known) is cut off. The neck fades
    between the rows `fade_top` and `fade_bottom` of the photo; nothing fades where they are equal.
    """

    top: int
    left: int
    height: int
    width: int
    head: Box | None
    confidence: float
    cuts: Edges
    fade_top: int
    fade_bottom: int

    @property
    def head_bottom(self) -> int | None:
        return self.head[3] if self.head else None

    def describe(self) -> dict[str, float | int]:
        """Flat metrics: `frame_…` and `head_…` in photo pixels, `cut_…` 1 at an edge the head is cut off at."""
        named: dict[str, float | int] = {"head_confidence": round(self.confidence, 4)}
        named |= {f"frame_{name}": getattr(self, name) for name in ("top", "left", "height", "width")}
        if self.head:
            named |= dict(zip(("head_left", "head_top", "head_right", "head_bottom"), self.head, strict=True))
        return named | {f"cut_{edge}": int(edge in self.cuts) for edge in ("left", "top", "right", "bottom")}


def frame(coarse: Alpha, width: int, height: int, fade: float) -> Frame:
    """Frame the subject of a coarse alpha [h, w], which covers a photo of `width` × `height` pixels and is of any size.

    `coarse` holds one subject (see `silhouette.keep_subject`); without any, the frame is the photo's middle. `fade` is
    the share of the frame's height that fades at most.
    """
    mask = to_grid(coarse, width, height)
    if not mask.any():
        mask = np.ones_like(mask)
    scene = _Scene(mask, to_grid(coarse, width, height, FAINT), width, height)
    return scene.frame_head(fade) if scene.head else scene.frame_subject(fade)


class _Scene:
    """One silhouette, measured in photo pixels."""

    def __init__(self, mask: Mask, faint: Mask, width: int, height: int) -> None:
        self._mask = mask
        self._faint = faint
        self._size = (width, height)
        self._scale = (width / mask.shape[1], height / mask.shape[0])
        self._subject = self._enlarge(bound(mask))
        self._cuts = find_cuts(mask)
        found = find_head(mask)
        self.head = self._enlarge(found.box) if found else None
        self._confidence = found.confidence if found else 0.0
        self._bulk = self._enlarge(find_bulk(mask))

    def frame_head(self, fade: float) -> Frame:
        assert self.head is not None
        left, top, right, bottom = self.head
        cuts = self._find_cuts_of(self.head)
        wide, high = right - left, bottom - top
        eyes = top + _EYES * high
        tall = max(high / _HEAD_HEIGHT, wide / _HEAD_WIDTH * 1.25)
        if "bottom" in self._cuts:  # a smaller frame that ends with the photo
            to_bottom = max((self._size[1] - eyes) / (1 - _EYE_LINE), (self._size[1] - top) / (1 - _AIR))
            tall = min(tall, max(to_bottom, high / _MOST_HEAD, wide / _MOST_HEAD * 1.25))
        units = _count_units(tall)
        tall = units * _UNIT
        above = 0 if "top" in cuts else min(eyes - _EYE_LINE * tall, top - _AIR * tall)
        middle = (left + right) / 2
        middle += _TOWARDS_BODY * (self._find_middle(above, above + tall) - middle)
        x = _hold(middle - 0.4 * tall, 0.8 * tall, left, right, _MARGIN * 0.8 * tall)
        return self._finish(x, above, units, fade, cuts)

    def frame_subject(self, fade: float) -> Frame:
        """The whole subject; where the photo's edge cuts it off below, its upper part in full width and down to there.

        What the photo cuts off above and below fills the frame's width, from its top: whatever there is of the head is
        inside, and the frame's lower part is empty where the photo is wider than a portrait.
        """
        left, top, right, bottom = self._subject
        if {"top", "bottom"} <= self._cuts:
            units = max(1, self._size[1] // _UNIT, int(np.ceil((right - left) / _WIDE / 4)))
            wide = 4 * units
            start = (left + right - wide) / 2
            if wide < self._size[0]:
                start = min(max(start, 0), self._size[0] - wide)
            return self._finish(start, 0, units, fade * _FADE_UNKNOWN, self._cuts)
        if "bottom" in self._cuts:
            left, right = self._find_columns(top, top + _UPPER * (bottom - top))
        share = _WIDE if "bottom" in self._cuts else _SUBJECT
        units = _count_units(max((right - left) / share * 1.25, (bottom - top) / share))
        spare = units * _UNIT - (bottom - top)
        above = 0 if "top" in self._cuts else top - max(_AIR * units * _UNIT, spare / 2)
        return self._finish((left + right) / 2 - 2 * units, above, units, fade * _FADE_UNKNOWN, self._cuts)

    def _finish(self, left: float, top: float, units: int, fade: float, cuts: Edges) -> Frame:
        """Whole pixels; moved inside the photo where its sides cut the subject off."""
        tall, wide = units * _UNIT, units * 4
        row = int(np.floor(top))
        column = self._avoid_cuts(round(left), wide, row, row + tall)
        if self.head:  # rounding must not cost it a pixel
            column = min(max(column, self.head[2] - wide), self.head[0])
            row = min(max(row, self.head[3] - tall), self.head[1])
        end = min(row + tall, self._size[1])
        start = max(
            end - round(fade * tall),
            self.head[3] if self.head else min(self._bulk[3], end - round(_FADE_LEAST * fade * tall)),
        )
        fills = {"left", "right"} <= cuts and row + tall <= self._size[1]  # a picture without a background
        crossed = self._reaches(end) and start < end and not fills
        return Frame(row, column, tall, wide, self.head, self._confidence, cuts, start if crossed else end, end)

    def _avoid_cuts(self, left: int, wide: int, top: int, bottom: int) -> int:
        rows = self._mask[self._row(top) : self._row(bottom) + 1]
        sides = find_cuts(rows) if rows.size else frozenset()
        photo = self._size[0]
        if wide > photo and {"left", "right"} <= sides:
            return round((photo - wide) / 2)
        if "left" in sides:
            left = max(left, 0)
        if "right" in sides:
            left = min(left, photo - wide)
        return left

    def _reaches(self, row: int) -> bool:
        """Whether anything of the subject, however faint, goes on at a row of the photo."""
        return bool(self._faint[max(0, self._row(row) - 2) : self._row(row) + 1].any())

    def _find_middle(self, top: float, bottom: float) -> float:
        """The mean column of the subject between two rows."""
        columns = np.nonzero(self._mask[self._row(top) : self._row(bottom) + 1])[1]
        return (float(columns.mean()) + 0.5) * self._scale[0] if columns.size else self._size[0] / 2

    def _find_columns(self, top: float, bottom: float) -> tuple[int, int]:
        """Where the subject begins and ends between two rows, of which one at least must show it."""
        rows = self._mask[self._row(top) : self._row(bottom) + 1]
        left, _, right, _ = bound(rows)
        return int(left * self._scale[0]), int(np.ceil(right * self._scale[0]))

    def _find_cuts_of(self, box: Box) -> Edges:
        x, y = 2 * self._scale[0], 2 * self._scale[1]
        touching = {
            "left": box[0] <= x, "top": box[1] <= y, "right": box[2] >= self._size[0] - x,
            "bottom": box[3] >= self._size[1] - y,
        }  # fmt: skip
        return frozenset(name for name, touches in touching.items() if touches) & self._cuts

    def _row(self, row: float) -> int:
        return int(np.clip(row / self._scale[1], 0, self._mask.shape[0] - 1))

    def _enlarge(self, box: Box) -> Box:
        """Cells to photo pixels, rounded outwards."""
        x, y = self._scale
        left, top = int(np.floor(box[0] * x)), int(np.floor(box[1] * y))
        return left, top, min(self._size[0], int(np.ceil(box[2] * x))), min(self._size[1], int(np.ceil(box[3] * y)))


def _count_units(tall: float) -> int:
    return max(1, int(np.ceil(tall / _UNIT)))


def _hold(start: float, length: float, low: float, high: float, margin: float) -> float:
    """Move a span so that it holds low..high, with a margin where there is room for it."""
    margin = min(margin, (length - (high - low)) / 2)
    return min(max(start, high + margin - length), low - margin)
