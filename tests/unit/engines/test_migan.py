"""The windows around the model, with plain functions for a model; then the model itself where its weights are."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as PillowImage

from serve_app.engines.migan import BLEED_PX, THICK_PX, WINDOW_PX, fill_in_windows, load_migan, window_starts
from serve_app.engines.protocol import Image, Mask
from serve_app.errors import ConfigurationError, WeightsUnavailable
from serve_app.settings_sections import EngineSettings
from serve_app.weights import locate

SAMPLE = Path(__file__).parents[3] / "pawfect" / "sample"


def textured(height: int, width: int) -> Image:
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)


def stripe(height: int, width: int, at: int, thick: int = 10) -> Mask:
    mask = np.zeros((height, width), np.uint8)
    mask[at : at + thick] = 255
    return mask


def grey(image: Image, hole: Mask) -> Image:
    """A model that fills with grey and, as the real one, also touches what it should keep."""
    return np.full_like(image, 128)


class Watcher:
    def __init__(self) -> None:
        self.calls: list[tuple[Image, Mask]] = []

    def __call__(self, image: Image, hole: Mask) -> Image:
        self.calls.append((image.copy(), hole.copy()))
        return image


@pytest.mark.parametrize("size", [(64, 64), (300, 451), (512, 512), (528, 512), (768, 1024), (1, 600)])
def test_what_is_kept_is_bit_identical_and_the_hole_is_filled(size: tuple[int, int]) -> None:
    image, mask = textured(*size), stripe(*size, at=size[0] // 2)
    out = fill_in_windows(grey, image, mask)
    assert out.shape == image.shape
    assert out.dtype == np.uint8
    assert (out[mask == 0] == image[mask == 0]).all()
    assert (out[mask == 255] == 128).all()


def test_the_model_sees_square_windows_at_full_size() -> None:
    watcher = Watcher()
    fill_in_windows(watcher, textured(768, 1024), stripe(768, 1024, at=500))
    assert [image.shape for image, _ in watcher.calls] == [(WINDOW_PX, WINDOW_PX, 3)] * 6


def test_windows_without_a_hole_are_left_out() -> None:
    watcher = Watcher()
    fill_in_windows(watcher, textured(1024, 512), stripe(1024, 512, at=5))
    assert len(watcher.calls) == 1


def test_a_small_crop_keeps_its_proportions() -> None:
    watcher = Watcher()
    image, mask = textured(100, 200), stripe(100, 200, at=40)
    fill_in_windows(watcher, image, mask)
    ((seen, hole),) = watcher.calls
    assert (seen[:100, :200] == image).all()
    assert (seen[100:200, :200] == image[::-1]).all()
    assert seen.shape[:2] == hole.shape == (WINDOW_PX, WINDOW_PX)


def test_the_model_s_hole_is_a_little_larger_so_that_nothing_shines_through() -> None:
    watcher = Watcher()
    fill_in_windows(watcher, textured(512, 512), stripe(512, 512, at=100))
    ((_, hole),) = watcher.calls
    rows = np.flatnonzero(hole[:, 256])
    assert (rows.min(), rows.max()) == (100 - BLEED_PX, 109 + BLEED_PX)


def test_overlapping_windows_meet_without_a_step() -> None:
    levels = iter(range(100, 200, 10))

    def next_level(image: Image, hole: Mask) -> Image:
        return np.full_like(image, next(levels))

    out = fill_in_windows(next_level, textured(512, 1024), stripe(512, 1024, at=250))
    line = out[255, :, 0].astype(int)
    assert (line.min(), line.max()) == (100, 120)
    assert np.abs(np.diff(line)).max() <= 1


def test_a_thick_hole_is_filled_in_one_pass() -> None:
    watcher = Watcher()
    fill_in_windows(watcher, textured(768, 1024), stripe(768, 1024, at=200, thick=2 * THICK_PX + 10))
    assert [image.shape for image, _ in watcher.calls] == [(768, 1024, 3)]


def test_an_empty_mask_calls_no_model() -> None:
    watcher = Watcher()
    image = textured(64, 64)
    mask = np.full((64, 64), 254, np.uint8)  # only 255 is edit
    out = fill_in_windows(watcher, image, mask)
    assert (out == image).all()
    assert out is not image
    assert watcher.calls == []


@pytest.mark.parametrize("length", [16, 512, 513, 768, 784, 1024, 2048])
def test_windows_cover_an_axis_and_overlap_by_half(length: int) -> None:
    starts = window_starts(length)
    assert starts[0] == 0
    assert starts[-1] + WINDOW_PX == max(length, WINDOW_PX)
    assert all(0 < step <= WINDOW_PX // 2 for step in np.diff(starts))


def test_a_file_that_is_no_model_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(ConfigurationError, match=r"model\.onnx cannot be loaded as an ONNX model"):
        load_migan(tmp_path / "model.onnx", threads=1)


@pytest.fixture(scope="module")
def weights_file() -> Path:
    try:
        return locate("migan", EngineSettings().weights_dir)
    except WeightsUnavailable:
        pytest.skip("weights not fetched: run make weights")


@pytest.mark.weights
def test_the_leash_on_the_sample_vanishes_and_comes_out_the_same_each_time(weights_file: Path) -> None:
    top, left = np.s_[352:720], np.s_[0:512]
    pictures = (PillowImage.open(SAMPLE / name) for name in ("original.jpg", "mask_auto.png", "ground_truth.jpg"))
    image, mask, truth = (np.array(picture)[top, left] for picture in pictures)
    inpaint = load_migan(weights_file, threads=2)
    first = inpaint(image, mask)
    assert (first == inpaint(image, mask)).all(), "not deterministic"
    edit = mask == 255
    assert (first[~edit] == image[~edit]).all()

    def distance(candidate: Image) -> float:
        return float(np.sqrt(((candidate.astype(float) - truth)[edit] ** 2).mean()))

    telea = cv2.inpaint(image, mask, 5, cv2.INPAINT_TELEA)
    assert distance(first) < distance(telea)
    assert distance(first) < 0.4 * distance(image)
    red = first[edit].astype(int)
    assert (red[:, 0] - red[:, 1:].max(axis=1) > 60).sum() == 0, "strap pixels are left"
