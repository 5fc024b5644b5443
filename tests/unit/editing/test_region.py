from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.editing.region import MAX_REGIONS, Region, plan
from serve_app.errors import ConfigurationError, MaskEmpty
from serve_app.settings_sections import Quality

CONTEXT = 64


def quality(detail: float = 1.0, megapixels: float = 1.0) -> Quality:
    return Quality(engine="flux", steps=4, guidance=30, detail=detail, max_megapixels=megapixels)


def blobs(height: int, width: int, seed: int, count: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(count):
        y, x, h, w = (int(random.integers(0, limit)) for limit in (height, width, height // 5 + 1, width // 5 + 1))
        mask[y : y + h + 1, x : x + w + 1] = 255
    return mask


def check(mask: np.ndarray, row: Quality, regions: list[Region]) -> None:
    height, width = mask.shape
    owners = np.zeros(mask.shape, int)
    for region in regions:
        left, top, right, bottom = region.box
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert region.size[0] % 16 == region.size[1] % 16 == 0
        assert region.size[0] * region.size[1] <= row.max_megapixels * 2**20
        owners[region.target[1] : region.target[3], region.target[0] : region.target[2]] += 1
        for axis, length in ((0, width), (1, height)):
            start, end = region.box[axis], region.box[axis + 2]
            density = region.size[axis] / (end - start)
            assert density <= row.detail * (1 + 1e-6) or (start == 0 and end == length)
            assert start == 0 or (region.target[axis] - start) * density >= CONTEXT
            assert end == length or (end - region.target[axis + 2]) * density >= CONTEXT
    assert 1 <= len(regions) <= MAX_REGIONS
    assert owners.max() == 1
    assert owners[mask > 0].all()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(1, 1), (1, 3000), (50, 2000), (300, 200), (700, 900), (1500, 2000), (2000, 20)]),
    st.integers(0, 10_000),
    st.sampled_from([1, 2, 5, 40]),
    st.sampled_from([(1.0, 1.0), (0.256, 1.0), (0.5, 0.25), (1.0, 0.5625)]),
)
def test_what_every_plan_promises(shape: tuple[int, int], seed: int, count: int, row: tuple[float, float]) -> None:
    mask = blobs(*shape, seed, count)
    check(mask, quality(*row), plan(mask, quality(*row), CONTEXT))


@pytest.mark.parametrize("shape", [(1, 1), (50, 10_000), (10_000, 50), (3000, 4000), (3024, 4032), (255, 257)])
def test_a_mask_of_everything(shape: tuple[int, int]) -> None:
    mask = np.ones(shape, bool)
    regions = plan(mask, "high")
    check(mask, quality(), regions)
    assert len(regions) == 1
    assert regions[0].box == (0, 0, shape[1], shape[0])


def test_a_dilated_mask_is_made_room_for() -> None:
    mask = blobs(1500, 2000, 5, 3)
    grown = np.zeros_like(mask)
    for y, x in np.argwhere(mask)[::50]:
        grown[max(0, y - 20) : y + 21, max(0, x - 20) : x + 21] = 255
    check(grown, quality(), plan(mask, quality(), CONTEXT, grow_px=20))


def test_scaling_is_even_where_the_photo_allows() -> None:
    for seed in range(20):
        mask = blobs(3000, 4000, seed, 1)
        (region,) = plan(mask, quality(0.256))
        left, top, right, bottom = region.box
        if right - left < 4000 and bottom - top < 3000:
            assert region.size[0] / (right - left) == pytest.approx(region.size[1] / (bottom - top), rel=0.01)


def test_one_pixel_takes_the_smallest_crop() -> None:
    mask = np.zeros((3000, 4000), bool)
    mask[1500, 2000] = True
    (region,) = plan(mask, "high")
    assert region.size == (256, 256)
    assert region.box[2] - region.box[0] == 256


def test_far_parts_are_apart_and_near_parts_together() -> None:
    mask = np.zeros((3000, 4000), bool)
    mask[200:300, 200:300] = mask[2700:2800, 3700:3800] = True
    assert len(plan(mask, "high")) == 2
    mask[330:360, 320:400] = True
    assert len(plan(mask, "high")) == 2


def test_thousands_of_specks_make_few_crops() -> None:
    random = np.random.default_rng(0)
    mask = np.zeros((3000, 4000), bool)
    mask[random.integers(0, 3000, 5000), random.integers(0, 4000, 5000)] = True
    check(mask, quality(), plan(mask, "high"))
    many = np.zeros((3000, 4000), bool)
    many[100::600, 100::600] = True
    check(many, quality(), plan(many, "high"))


def test_a_part_keeps_its_detail_beside_a_large_one() -> None:
    mask = np.zeros((3000, 4000), bool)
    mask[100:2900, 100:2000] = True
    mask[1500:1520, 3500:3520] = True
    densities = [region.size[0] / (region.box[2] - region.box[0]) for region in plan(mask, "high")]
    assert len(densities) == 2
    assert max(densities) == pytest.approx(1.0)


def test_thin_leash_and_clip_cost_less_than_the_whole_frame() -> None:
    mask = np.zeros((3000, 4000), bool)
    for step in range(2000):  # a diagonal through half of each side
        mask[700 + step * 3 // 4, 900 + step : 940 + step] = True
    area = sum(width * height for width, height in (region.size for region in plan(mask, quality(0.256))))
    assert 1024 * 768 / area > 1.7


def test_nothing_to_do_is_an_error_and_so_is_an_unknown_quality() -> None:
    with pytest.raises(MaskEmpty):
        plan(np.zeros((10, 10), bool), "high")
    with pytest.raises(ConfigurationError, match="draft, low, medium, high"):
        plan(np.ones((10, 10), bool), "best")
