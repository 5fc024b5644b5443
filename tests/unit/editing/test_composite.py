from __future__ import annotations

import numpy as np
import pytest

from serve_app.editing.composite import alpha, blend, composite, enlarge, patches
from serve_app.editing.mask import dilate
from serve_app.editing.region import Region


def dot(radius: int) -> np.ndarray:
    core = np.zeros((2 * radius + 9, 2 * radius + 9), bool)
    core[radius + 4, radius + 4] = True
    return core


@pytest.mark.parametrize("radius", range(61))
def test_alpha_stays_inside_the_dilated_mask_and_is_full_on_the_mask(radius: int) -> None:
    core = dot(radius)
    opacity = alpha(core, radius)
    assert not opacity[dilate(core, radius) == 0].any()
    assert (opacity[core] == 255).all()


def test_alpha_falls_with_the_distance() -> None:
    row = alpha(dot(12), 12)[16, 16:]
    assert (np.diff(row.astype(int)) <= 0).all()
    assert 100 < row[6] < 155


def test_a_full_mask_is_opaque() -> None:
    assert (alpha(np.ones((5, 5), bool), 3) == 255).all()


def test_blending_is_exact_at_both_ends() -> None:
    random = np.random.default_rng(0)
    below, above = (random.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(2))
    assert np.array_equal(blend(below, above, np.zeros((64, 64), np.uint8)), below)
    assert np.array_equal(blend(below, above, np.full((64, 64), 255, np.uint8)), above)
    half = blend(below, above, np.full((64, 64), 128, np.uint8)).astype(int)
    assert np.abs(half - (below.astype(int) + above) / 2).max() <= 1


@pytest.mark.parametrize(("box", "size"), [((100, 60, 612, 316), (256, 128)), ((7, 9, 39, 25), (128, 64))])
def test_a_ramp_lands_where_it_came_from(box: tuple[int, int, int, int], size: tuple[int, int]) -> None:
    across = (np.arange(size[0]) + 0.5) / size[0] * 250
    model = np.repeat(np.broadcast_to(across[None, :, None], (size[1], size[0], 1)), 3, axis=2).astype(np.uint8)
    whole = enlarge(model, Region(box, size, box), box)
    width = box[2] - box[0]
    expected = (np.arange(width) + 0.5) / width * 250
    assert np.abs(whole[0, :, 0] - expected)[3:-3].max() < 2 + 250 / width / 2


def test_equal_sizes_are_copied_exactly() -> None:
    model = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    region = Region((5, 6, 53, 38), (48, 32), (5, 6, 53, 38))
    assert np.array_equal(enlarge(model, region, (10, 8, 30, 20)), model[2:14, 5:25])


def test_patches_hold_what_the_region_owns_and_nothing_else() -> None:
    core = np.zeros((200, 300), bool)
    core[40:60, 50:90] = core[150:160, 250:260] = True
    region = Region((0, 0, 300, 200), (256, 256), (46, 36, 94, 64))
    photo = np.zeros((200, 300, 3), np.uint8)
    model = np.full((256, 256, 3), 255, np.uint8)
    for patch in patches(region, core, 4):
        left, top, right, bottom = patch.box
        photo[top:bottom, left:right] = composite(photo[top:bottom, left:right], region, model, patch, 4)
    core[150:160, 250:260] = False
    assert np.array_equal(photo[..., 0], alpha(core, 4))
