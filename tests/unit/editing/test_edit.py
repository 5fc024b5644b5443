from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from PIL import Image, ImageCms

from serve_app.editing import mask as masks
from serve_app.editing.edit import Prepared, composite_frame, finish, prepare
from serve_app.errors import EngineFailed, MaskEmpty, MaskUnreadable, PhotoUnreadable
from serve_app.photos.codec import decode_photo
from serve_app.settings import Settings
from serve_app.settings_sections import EditingSettings, Quality

SETTINGS = Settings(_env_file=None)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def row(detail: float = 1.0, megapixels: float = 1.0) -> Quality:
    return Quality(engine="draft", steps=1, guidance=0, detail=detail, max_megapixels=megapixels)


def file(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def noise(prepared: Prepared, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, crop.image.shape, dtype=np.uint8) for crop in prepared.crops]


def marks(height: int, width: int, seed: int, kind: str) -> np.ndarray:
    random = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    if kind == "everything":
        mask[:] = 255
    elif kind == "specks":
        mask[random.random((height, width)) < 0.01] = 255
    else:
        for _ in range(2):
            y, x = int(random.integers(0, height)), int(random.integers(0, width))
            mask[y : y + height // 6 + 1, x : x + width // 6 + 1] = 255
    mask[int(random.integers(0, height)), int(random.integers(0, width))] = 255
    return mask


@profile(max_examples=60, deadline=None)
@given(
    st.sampled_from([(1, 1), (1, 400), (300, 7), (90, 120), (301, 263), (480, 640)]),
    st.integers(0, 10_000),
    st.sampled_from(["blobs", "everything", "specks"]),
    st.sampled_from([0.0, 0.003, 0.02, 0.1]),
    st.sampled_from([(1.0, 1.0), (0.3, 0.25)]),
    st.sampled_from(
        [
            ("PNG", {}),
            ("JPEG", {}),
            ("JPEG", {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"}),
        ]
    ),
)
def test_nothing_outside_the_dilated_mask_changes(
    shape: tuple[int, int],
    seed: int,
    kind: str,
    dilation: float,
    quality: tuple[float, float],
    encoding: tuple[str, dict[str, bytes]],
) -> None:
    settings = SETTINGS.model_copy(update={"editing": EditingSettings(mask_dilation=dilation)})
    original = file(texture(*shape, seed), encoding[0], **encoding[1])
    before = decode_photo(original, settings.photos).pixels
    mask = marks(*before.shape[:2], seed, kind)
    prepared = prepare(original, file(mask), row(*quality), settings)
    after = composite_frame(prepared, noise(prepared, seed), settings)
    grown = masks.dilate(mask, masks.dilation_radius(mask.shape[1], mask.shape[0], dilation)) > 0
    assert after.shape == before.shape
    assert np.array_equal(after[~grown], before[~grown])
    if kind == "blobs" and min(shape) > 50:
        assert (after[mask > 0] != before[mask > 0]).any(axis=-1).mean() > 0.9


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_an_engine_that_changes_nothing_changes_next_to_nothing(orientation: int) -> None:
    smooth = np.stack([np.add.outer(np.arange(400), np.arange(600)) * 255 // 1000] * 3, axis=-1).astype(np.uint8)
    tags = Image.Exif()
    tags[0x0112] = orientation
    original = file(smooth, "JPEG", quality=95, exif=tags.tobytes())
    before = decode_photo(original, SETTINGS.photos).pixels
    mask = np.zeros(before.shape[:2], np.uint8)
    mask[100:300, 150:330] = 255
    for detail in (1.0, 0.7, 0.45):
        prepared = prepare(original, file(mask), row(detail), SETTINGS)
        after = composite_frame(prepared, [crop.image for crop in prepared.crops], SETTINGS)
        assert np.abs(after.astype(int) - before).max() <= 6


def test_crops_have_the_regions_size_and_cover_the_dilated_mask() -> None:
    photo, mask = texture(900, 1200), marks(900, 1200, 4, "blobs")
    prepared = prepare(file(photo), file(mask), row(0.6), SETTINGS)
    grown = masks.dilate(mask, prepared.radius_px)
    for region, crop in zip(prepared.regions, prepared.crops, strict=True):
        assert crop.image.shape == (region.size[1], region.size[0], 3)
        assert crop.mask.shape == crop.image.shape[:2]
        assert set(np.unique(crop.mask)) <= {0, 255}
        left, top, right, bottom = region.target
        for y, x in np.argwhere(grown[top:bottom, left:right])[::97]:
            column = (left + x - region.box[0]) * region.size[0] // (region.box[2] - region.box[0])
            line = (top + y - region.box[1]) * region.size[1] // (region.box[3] - region.box[1])
            assert crop.mask[line, column] == 255


def test_the_results_are_jpegs_with_profile_and_reset_orientation() -> None:
    tags = Image.Exif()
    tags[0x0112], tags[0x010F] = 6, "Pawcam"
    original = file(texture(300, 400), "JPEG", exif=tags.tobytes(), icc_profile=SRGB)
    prepared = prepare(original, file(marks(300, 400, 0, "blobs")), row(), SETTINGS)  # the stored photo's mask
    edited = finish(prepared, noise(prepared), SETTINGS)
    photo = Image.open(io.BytesIO(edited.photo))
    assert photo.size == (edited.width, edited.height) == (300, 400)
    assert photo.info["icc_profile"] == SRGB
    assert dict(photo.getexif()) == {0x0112: 1, 0x010F: "Pawcam"}
    assert Image.open(io.BytesIO(edited.preview)).size == (300, 400)
    assert set(prepared.seconds) == {"decode", "plan"}
    assert set(edited.seconds) == {"decode", "composite", "encode"}


def test_no_frame_and_no_full_mask_is_held() -> None:
    original = file(texture(1500, 2000), "JPEG")
    mask = np.zeros((1500, 2000), np.uint8)
    mask[::1, 700] = 255
    prepared = prepare(original, file(mask), row(0.25, 0.25), SETTINGS)
    held = sum(crop.image.nbytes + crop.mask.nbytes for crop in prepared.crops)
    held += sum(
        patch.bits.base.nbytes if patch.bits.base is not None else patch.bits.nbytes
        for pieces in prepared.patches
        for patch in pieces
    )
    assert held < 1500 * 2000 / 2


def test_a_wrong_answer_of_the_engine_is_its_failure() -> None:
    prepared = prepare(file(texture(64, 64)), file(marks(64, 64, 0, "blobs")), row(), SETTINGS)
    (image,) = noise(prepared)
    for wrong in ([], [image, image], [image[:16]], [image.astype(np.float32)], [image[..., 0]]):
        with pytest.raises(EngineFailed, match="The engine returned"):
            finish(prepared, wrong, SETTINGS)


def test_bad_inputs_are_told_apart() -> None:
    photo, mask = file(texture(40, 60)), file(marks(40, 60, 0, "blobs"))
    with pytest.raises(PhotoUnreadable):
        prepare(b"text", mask, row(), SETTINGS)
    with pytest.raises(MaskUnreadable):
        prepare(photo, b"text", row(), SETTINGS)
    with pytest.raises(MaskUnreadable):
        prepare(photo, file(marks(60, 40, 0, "blobs")), row(), SETTINGS)
    with pytest.raises(MaskEmpty):
        prepare(photo, file(np.zeros((40, 60), np.uint8)), row(), SETTINGS)


def test_a_kept_frame_saves_a_decode_and_changes_nothing() -> None:
    original, mask = file(texture(300, 400), "JPEG"), file(marks(300, 400, 1, "blobs"))
    dropped = prepare(original, mask, row(), SETTINGS)
    kept = prepare(original, mask, row(), SETTINGS, keep_frame=True)
    assert dropped.frame is None
    assert kept.frame is not None
    assert kept.without_frame().frame is None
    for one, other in zip(dropped.crops, kept.crops, strict=True):
        assert np.array_equal(one.image, other.image)
    slow, quick = finish(dropped, noise(dropped), SETTINGS), finish(kept, noise(kept), SETTINGS)
    assert (slow.photo, slow.preview) == (quick.photo, quick.preview)
