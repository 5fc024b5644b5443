"""MI-GAN, the embedded inpainting model, as a function of image and mask.

Sargsyan et al., "MI-GAN: A Simple Baseline for Image Inpainting on Mobile Devices", ICCV 2023; the authors' exported
pipeline (uint8 in and out, mask 0 = hole). The pipeline cuts a box around the hole and scales it to 512 × 512, so a
leash across a 1024 px crop comes back at half its sharpness. Here the model sees 512 × 512 windows at full size
instead, and their results are blended.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from serve_app.engines.protocol import Image, Mask
from serve_app.errors import ConfigurationError, EngineFailed

Inpaint = Callable[[Image, Mask], Image]
"""Image [H, W, 3] uint8 RGB and mask [H, W] uint8 (255 = edit) → image of the same size; pixels to keep are kept."""

WINDOW_PX = 512  # the model's own size: a window of it is not scaled at all
BLEED_PX = 3  # the pipeline softens the hole's edge, which lets what is being removed shine through
THICK_PX = 128  # with a point so far from its edge, a hole may fill a whole window: one scaled pass is better


def load_migan(path: Path, threads: int) -> Inpaint:
    """The model on the CPU; `threads` 0 = one per core this process may use. Not for concurrent calls.

    Loading raises `ConfigurationError`, a call raises `EngineFailed`. Same input, same number of threads: same output.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    # A waiting thread that spins takes the core from the jobs around this one and gains little here.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions have no common ancestor but this
        raise ConfigurationError(f"{path} cannot be loaded as an ONNX model: {error}") from error

    def run(image: Image, hole: Mask) -> Image:
        return _run(session, image, hole)

    return lambda image, mask: fill_in_windows(run, image, mask)


def _run(session: Any, image: Image, hole: Mask) -> Image:
    inputs = {
        "image": np.ascontiguousarray(image.transpose(2, 0, 1)[None]),
        "mask": np.ascontiguousarray(255 - hole)[None, None],
    }
    try:
        result: NDArray[np.uint8] = session.run(["result"], inputs)[0]
    except Exception as error:  # as above
        raise EngineFailed(f"onnxruntime failed in the draft engine: {error}") from error
    filled: Image = result[0].transpose(1, 2, 0)
    return filled


def fill_in_windows(run: Inpaint, image: Image, mask: Mask) -> Image:
    """Image [H, W, 3] uint8 RGB with the pixels under mask [H, W] (255 = edit, else keep) replaced, others as given.

    `run` sees 512 × 512 at a time, except where the hole is too thick for that. Overlapping windows are
    averaged, each weighted by the distance to its own border, so that no seam shows.
    """
    edit = (mask == 255).astype(np.uint8) * 255
    if not edit.any():
        return image.copy()
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * BLEED_PX + 1,) * 2)
    hole: Mask = cv2.dilate(edit, brush)
    if _thickness(hole) > THICK_PX:
        return np.where(edit[..., None] > 0, run(image, hole), image)
    height, width = edit.shape
    total = np.zeros(image.shape, np.float32)
    weights = np.zeros((height, width, 1), np.float32)
    for top in window_starts(height):
        for left in window_starts(width):
            window = np.s_[top : top + WINDOW_PX, left : left + WINDOW_PX]
            if not edit[window].any():
                continue
            weight = _weigh(*edit[window].shape)
            total[window] += _run_padded(run, image[window], hole[window]) * weight
            weights[window] += weight
    blended = (total / np.maximum(weights, 1e-6) + 0.5).astype(np.uint8)
    return np.where(edit[..., None] > 0, blended, image)


def _run_padded(run: Inpaint, image: Image, hole: Mask) -> Image:
    """The pipeline would stretch a narrower piece to a square; mirrored to 512 × 512, it keeps its proportions."""
    height, width = hole.shape
    room = ((0, WINDOW_PX - height), (0, WINDOW_PX - width))
    padded = run(np.pad(image, (*room, (0, 0)), mode="symmetric"), np.pad(hole, room, mode="symmetric"))
    return padded[:height, :width]


def window_starts(length: int) -> list[int]:
    """Where windows start along an axis: the first at 0, the last ending at the edge, neighbours half overlapping."""
    if length <= WINDOW_PX:
        return [0]
    gaps = -(-(length - WINDOW_PX) // (WINDOW_PX // 2))
    return [round(i * (length - WINDOW_PX) / gaps) for i in range(gaps + 1)]


def _weigh(height: int, width: int) -> NDArray[np.float32]:
    """[height, width, 1] float32, positive, highest in the middle; squared so that the nearer window clearly wins."""
    rows, columns = (np.minimum(np.arange(n), np.arange(n)[::-1]).astype(np.float32) + 1 for n in (height, width))
    return np.minimum.outer(rows, columns)[..., None] ** 2


def _thickness(hole: Mask) -> float:
    """The largest distance of a hole's point to what is kept, in pixels; beyond the crop's edge nothing is known."""
    return float(cv2.distanceTransform(hole, cv2.DIST_L2, 3).max())
