"""A matting network: what it is fed, what is made of its answer, and files that are not it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serve_app.errors import ConfigurationError, EngineFailed, OutputInvalid, WeightsUnavailable
from serve_app.headshots.matting import Rgb, finish, load_matting, prepare
from serve_app.headshots.matting_models import MODELS
from serve_app.settings import EngineSettings
from serve_app.weights import locate
from tests.unit.headshots.networks import INT64, write_network

U2NETP, BIREFNET = MODELS["u2netp"], MODELS["birefnet"]
SAMPLE = Path(__file__).parents[3] / "pawfect" / "sample"


def ramp(height: int, width: int) -> Rgb:
    """Dark at the top, bright at the bottom, 0..200."""
    column = np.linspace(0, 200, height).astype(np.uint8)
    return np.broadcast_to(column[:, None, None], (height, width, 3)).copy()


def test_the_input_is_scaled_by_its_maximum_and_normalized_per_channel() -> None:
    image = np.zeros((64, 48, 3), np.uint8)
    image[:] = (200, 100, 50)
    pixels = prepare(image, U2NETP)
    assert pixels.shape == (1, 3, 320, 320)
    assert pixels.dtype == np.float32
    wanted = (np.array([1.0, 0.5, 0.25]) - U2NETP.mean) / U2NETP.std
    np.testing.assert_allclose(pixels[0].mean((1, 2)), wanted, atol=1e-4)


def test_a_row_with_the_fixed_scale_divides_by_255() -> None:
    pixels = prepare(np.full((9, 9, 3), 51, np.uint8), BIREFNET)
    np.testing.assert_allclose(pixels[0, :, 0, 0], (0.2 - np.array(BIREFNET.mean)) / BIREFNET.std, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (3000, 10)])
@pytest.mark.parametrize("value", [0, 255])
def test_any_size_and_a_black_photo_give_numbers(size: tuple[int, int], value: int) -> None:
    assert np.isfinite(prepare(np.full((*size, 3), value, np.uint8), U2NETP)).all()


def test_where_a_thing_is_in_the_photo_it_is_in_the_input() -> None:
    image = np.zeros((1000, 2000, 3), np.uint8)
    image[250:750, 500:1500] = 255
    seen = prepare(image, U2NETP)[0, 0]
    inside = seen > seen.mean()
    np.testing.assert_allclose(np.argwhere(inside).mean(0), [159.5, 159.5], atol=0.01)
    np.testing.assert_allclose(inside.sum(), 160 * 160, rtol=0.02)


def test_alpha_of_the_first_output_is_stretched_to_the_whole_range(tmp_path: Path) -> None:
    matting = load_matting(write_network(tmp_path / "n.onnx", operators=("Neg", "Identity")), U2NETP, threads=1)
    alpha = matting.predict(ramp(100, 60))
    assert alpha.shape == (320, 320)
    assert alpha.dtype == np.float32
    assert (alpha.min(), alpha.max()) == (0, 1)
    assert alpha[0, 0] > 0.99, "the first output is the negative one"
    assert alpha[-1, 0] < 0.01


def test_a_row_with_logits_takes_the_last_output(tmp_path: Path) -> None:
    row = replace(BIREFNET, side_px=320)
    matting = load_matting(write_network(tmp_path / "n.onnx", operators=("Neg", "Identity")), row, threads=1)
    photo = ramp(100, 60)
    logits = prepare(photo, row).mean(1)[0]
    np.testing.assert_allclose(matting.predict(photo), 1 / (1 + np.exp(-logits)), atol=1e-5)


def test_huge_logits_do_not_overflow() -> None:
    result = np.array([[-1e30, 1e30]], np.float32)
    np.testing.assert_array_equal(finish(result, BIREFNET), [[0, 1]])


def test_a_flat_answer_is_no_subject() -> None:
    assert not finish(np.full((4, 4), 0.7, np.float32), U2NETP).any()


def test_an_answer_that_is_no_number_is_said_so(tmp_path: Path) -> None:
    matting = load_matting(write_network(tmp_path / "n.onnx", operators=("Log",)), U2NETP, threads=1)
    with pytest.raises(OutputInvalid, match="u2netp answered with values that are not numbers"):
        matting.predict(ramp(10, 10))


def test_a_file_that_is_no_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"\xff\xd8 not a network")
    with pytest.raises(ConfigurationError, match=r"photo\.jpg cannot be loaded as an ONNX model"):
        load_matting(path, U2NETP, threads=1)
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        load_matting(tmp_path / "missing.onnx", U2NETP, threads=1)


@pytest.mark.parametrize("shape", [(1, 3, 1024, 1024), (1, 1, 320, 320), (2, 3, 320, 320)])
def test_a_network_of_another_shape_is_refused_with_both_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = write_network(tmp_path / "other.onnx", shape)
    with pytest.raises(ConfigurationError) as caught:
        load_matting(path, U2NETP, threads=1)
    assert f"takes photo tensor(float) {list(shape)}" in caught.value.message
    assert "u2netp takes one tensor(float) [1, 3, 320, 320]" in caught.value.message


def test_a_network_of_another_type_is_refused(tmp_path: Path) -> None:
    path = write_network(tmp_path / "n.onnx", kind=INT64)
    with pytest.raises(ConfigurationError, match=r"takes photo tensor\(int64\)"):
        load_matting(path, U2NETP, threads=1)


def test_an_answer_of_another_size_fails_the_call(tmp_path: Path) -> None:
    matting = load_matting(write_network(tmp_path / "n.onnx", operators=("GlobalMaxPool",)), U2NETP, threads=1)
    with pytest.raises(EngineFailed, match=r"u2netp answered with an array \[1, 1, 1, 1\] instead of 320 × 320"):
        matting.predict(ramp(10, 10))


def test_a_network_that_breaks_down_fails_the_call(tmp_path: Path) -> None:
    matting = load_matting(write_network(tmp_path / "n.onnx", (1, 3, 320, 320)), U2NETP, threads=1)
    matting.model = replace(U2NETP, side_px=64)
    with pytest.raises(EngineFailed, match="onnxruntime failed in the matting model u2netp"):
        matting.predict(ramp(10, 10))


def test_cuda_without_cuda_is_an_error_and_no_quiet_cpu(tmp_path: Path) -> None:
    path = write_network(tmp_path / "n.onnx")
    with pytest.raises(ConfigurationError, match="CUDA was asked for"):
        load_matting(path, U2NETP, threads=1, cuda=True)


@pytest.mark.weights
def test_the_embedded_network_finds_the_dog_and_says_the_same_twice() -> None:
    from PIL import Image

    try:
        path = locate("u2netp", EngineSettings().weights_dir)
    except WeightsUnavailable as error:
        pytest.skip(error.message)
    matting = load_matting(path, U2NETP, threads=1)
    photo = np.asarray(Image.open(SAMPLE / "original.jpg").convert("RGB"))
    alpha = matting.predict(photo)
    assert 0.05 < (alpha > 0.5).mean() < 0.8
    assert ((alpha < 0.1) | (alpha > 0.9)).mean() > 0.8, "it is certain nearly everywhere"
    np.testing.assert_array_equal(alpha, matting.predict(photo))
