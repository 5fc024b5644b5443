"""What is let in, and which samples a request becomes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.engines.crops import MAX_PIXELS
from serve_app.engines.protocol import Crop, FillRequest, ImageToImageRequest, Request, Task, TextToImageRequest
from serve_app.errors import EngineRejected
from serve_app.flux.admission import MAX_STEPS, SEEDS, make_samples
from tests.flux_fakes import BASE, FILL, make_crop, make_fill

COMMON: dict[str, Any] = {"request_id": "job", "prompt": "grass", "steps": 4, "guidance": 3.5, "seed": 7}


def of_text(width: int = 48, height: int = 32, **others: Any) -> TextToImageRequest:
    return TextToImageRequest(**COMMON | others, width=width, height=height)


def of_image(width: int = 48, height: int = 32, strength: float = 0.5, **others: Any) -> ImageToImageRequest:
    image = others.pop("image", np.zeros((height, width, 3), np.uint8))
    return ImageToImageRequest(**COMMON | others, image=image, strength=strength)


def test_a_fill_is_one_sample_per_crop_with_seeds_that_count_up() -> None:
    request = make_fill(sides=((48, 32), (16, 64)), seed=7, steps=5, guidance=30.0)
    first, second = make_samples(request, FILL)
    assert (first.task, first.width, first.height, first.grid, first.seed) == (Task.FILL, 48, 32, (2, 3), 7)
    assert (second.width, second.height, second.grid, second.seed) == (16, 64, (4, 1), 8)
    assert (first.steps, first.steps_to_run, first.guidance, first.strength, first.rows) == (5, 5, 30.0, 1.0, 1)
    assert first.image is request.crops[0].image
    assert second.mask is request.crops[1].mask


def test_the_seeds_begin_again_behind_the_largest() -> None:
    samples = make_samples(make_fill(sides=((16, 16),) * 3, seed=SEEDS - 2), FILL)
    assert [sample.seed for sample in samples] == [SEEDS - 2, SEEDS - 1, 0]


def test_text_makes_one_sample() -> None:
    (sample,) = make_samples(of_text(), BASE)
    assert (sample.task, sample.width, sample.height, sample.seed) == (Task.TEXT_TO_IMAGE, 48, 32, 7)
    assert (sample.image, sample.mask, sample.steps_to_run) == (None, None, 4)


def test_an_image_makes_one_sample_of_its_size_with_a_share_of_the_steps() -> None:
    request = of_image(strength=0.5)
    (sample,) = make_samples(request, BASE)
    assert (sample.task, sample.width, sample.height, sample.strength) == (Task.IMAGE_TO_IMAGE, 48, 32, 0.5)
    assert sample.image is request.image
    assert (sample.mask, sample.steps, sample.steps_to_run) == (None, 4, 2)


@given(steps=st.integers(1, MAX_STEPS), strength=st.floats(1e-6, 1))
def test_the_share_of_the_steps_is_rounded_up(steps: int, strength: float) -> None:
    (sample,) = make_samples(of_image(steps=steps, strength=strength), BASE)
    assert 1 <= sample.steps_to_run <= steps
    assert steps * strength - 1e-9 <= sample.steps_to_run < steps * strength + 1


@pytest.mark.parametrize(
    ("negative", "true_cfg", "rows", "used"),
    [("leash", 4.0, 2, 4.0), ("leash", 1.0, 1, 1.0), ("leash", 0.0, 1, 0.0), (None, 4.0, 1, 1.0), ("", 1.5, 2, 1.5)],
)
def test_true_guidance_needs_a_negative_prompt_and_two_rows(
    negative: str | None, true_cfg: float, rows: int, used: float
) -> None:
    (sample,) = make_samples(of_text(negative_prompt=negative, true_cfg=true_cfg), BASE)
    assert (sample.rows, sample.true_cfg) == (rows, used)


@pytest.mark.parametrize("size", [(16, 16), (1024, 1024), (MAX_PIXELS // 16, 16)])
def test_the_smallest_and_the_largest_sizes_are_taken(size: tuple[int, int]) -> None:
    assert make_samples(of_text(*size), BASE)[0].width == size[0]


@pytest.mark.parametrize(
    "number",
    [{"steps": 1}, {"steps": 200}, {"guidance": 0}, {"guidance": 100}, {"true_cfg": 0}, {"true_cfg": 100}, {"seed": 0}],
)
def test_the_bounds_of_numbers_are_taken(number: dict[str, Any]) -> None:
    assert len(make_samples(of_text(**number), BASE)) == 1


def crop_of(image: Any, mask: Any) -> FillRequest:
    return FillRequest(**COMMON, crops=(make_crop(), Crop(image, mask)))


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (of_text(steps=0), "steps is 0; 1 to 200"),
        (of_text(steps=201), "steps is 201"),
        (of_text(guidance=-0.1), "guidance is -0.1; 0 to 100"),
        (of_text(guidance=math.nan), "guidance is nan"),
        (of_text(guidance=math.inf), "guidance is inf"),
        (of_text(true_cfg=101), "true_cfg is 101; 0 to 100"),
        (of_text(true_cfg=math.nan), "true_cfg is nan"),
        (of_text(seed=-1), "seed is -1; 0 to 2"),
        (of_text(seed=SEEDS), "seed is 9223372036854775808"),
        (of_text(0, 16), "0 × 16 pixels: both sides must be multiples of 16"),
        (of_text(-16, -16), "both sides"),
        (of_text(40, 32), "40 × 32 pixels: both sides"),
        (of_text(32, 40), "32 × 40 pixels: both sides"),
        (of_text(1024, 1040), "1024 × 1040 pixels are more than the 1048576 accepted"),
        (of_image(strength=0), "strength is 0; above 0 up to 1"),
        (of_image(strength=1.01), "strength is 1.01"),
        (of_image(strength=math.nan), "strength is nan"),
        (of_image(strength=1e-300), "leaves none of 4 steps"),
        (of_image(40, 32), "40 × 32 pixels: both sides"),
        (of_image(1024, 1040), "more than the 1048576"),
        (of_image(image=np.zeros((32, 32), np.uint8)), r"uint8 \(32, 32\); it must be"),
        (of_image(image=np.zeros((32, 32, 4), np.uint8)), r"\(32, 32, 4\); it must be"),
        (of_image(image=np.zeros((32, 32, 3), np.float32)), "float32"),
        (of_image(image=np.zeros((0, 0, 3), np.uint8)), "both sides"),
    ],
)
def test_what_is_out_of_range_is_refused_with_what_is_accepted(request_: Request, says: str) -> None:
    with pytest.raises(EngineRejected, match=says):
        make_samples(request_, BASE)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (make_fill(sides=()), "no crops"),
        (make_fill(sides=((32, 32), (40, 32))), "40 × 32 pixels: both sides"),
        (crop_of(np.zeros((32, 32, 3), np.uint8), np.zeros((32, 16), np.uint8)), "mask is uint8"),
        (crop_of(np.zeros((32, 32), np.uint8), np.zeros((32, 32), np.uint8)), "image is uint8"),
        (crop_of(np.zeros((32, 32, 3), np.float32), np.zeros((32, 32), np.uint8)), "image is float32"),
        (crop_of(np.zeros((0, 0, 3), np.uint8), np.zeros((0, 0), np.uint8)), "0 pixels"),
        (crop_of(np.zeros((1024, 1040, 3), np.uint8), np.zeros((1024, 1040), np.uint8)), "1 to 1048576"),
    ],
)
def test_crops_that_cannot_be_filled_are_refused(request_: FillRequest, says: str) -> None:
    with pytest.raises(EngineRejected, match=says):
        make_samples(request_, FILL)


def test_a_model_refuses_what_another_can_do_and_names_it() -> None:
    with pytest.raises(EngineRejected, match="flux-fill-dev does not do text-to-image; flux-dev does"):
        make_samples(of_text(), FILL)
    with pytest.raises(EngineRejected, match="flux-dev does not do fill; flux-fill-dev does"):
        make_samples(make_fill(), BASE)
