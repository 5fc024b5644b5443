from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serve_app.engines.crops import check_crop, check_output
from serve_app.engines.protocol import Crop
from serve_app.errors import EngineFailed, EngineRejected

GRASS = np.random.default_rng(1).integers(60, 140, (48, 64, 3), dtype=np.uint8)


def crop_with(image: NDArray[Any] = GRASS, mask: NDArray[Any] | None = None) -> Crop:
    if mask is None:
        mask = np.zeros(image.shape[:2], np.uint8)
        mask[20:28] = 255
    return Crop(image, mask)


def filled_with(crop: Crop, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    out = crop.image.copy()
    out[crop.mask == 255] = colour
    return out


def test_a_crop_as_promised_passes() -> None:
    check_crop(crop_with())


@pytest.mark.parametrize(
    "crop",
    [
        crop_with(image=GRASS.astype(np.float32)),
        crop_with(image=GRASS[..., :1]),
        Crop(GRASS[..., 0], np.zeros((48, 64), np.uint8)),
        crop_with(mask=np.zeros((48, 63), np.uint8)),
        Crop(GRASS, np.zeros((48, 64), bool)),
        crop_with(image=np.zeros((0, 64, 3), np.uint8)),
        crop_with(image=np.zeros((1024, 1040, 3), np.uint8)),
    ],
)
def test_any_other_crop_is_rejected(crop: Crop) -> None:
    with pytest.raises(EngineRejected):
        check_crop(crop)


@pytest.mark.parametrize(
    "output",
    [
        GRASS[:-1],
        GRASS.astype(np.float32),
        np.full(GRASS.shape, np.nan, np.float32),
        GRASS.transpose(2, 0, 1),
    ],
)
def test_an_output_of_another_shape_or_type_fails(output: NDArray[Any]) -> None:
    with pytest.raises(EngineFailed, match="the model gave"):
        check_output(crop_with(), output)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (100, 100, 255)])
def test_a_hole_gone_flat_in_a_strange_colour_fails(colour: tuple[int, int, int]) -> None:
    crop = crop_with()
    with pytest.raises(EngineFailed, match="flat colour"):
        check_output(crop, filled_with(crop, colour))


def test_a_flat_filling_in_the_colour_of_a_plain_wall_passes() -> None:
    crop = crop_with(image=np.full((48, 64, 3), 250, np.uint8))
    check_output(crop, filled_with(crop, (255, 255, 255)))


def test_an_ordinary_filling_passes() -> None:
    check_output(crop_with(), GRASS[::-1].copy())


def test_nothing_to_edit_passes() -> None:
    check_output(crop_with(mask=np.zeros((48, 64), np.uint8)), np.zeros_like(GRASS))


def test_a_mask_over_everything_leaves_nothing_to_compare_with() -> None:
    crop = crop_with(mask=np.full((48, 64), 255, np.uint8))
    check_output(crop, np.zeros_like(GRASS))
