"""Photos for headshots: every accepted file becomes upright sRGB, and every other one a sentence."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from serve_app.errors import PhotoTooLarge, PhotoUnreadable
from serve_app.photos.codec import decode_photo, decode_srgb
from serve_app.settings_sections import PhotoSettings
from tests.heic import claim_size, encode_heic, set_rotation
from tests.icc import ADOBE_GAMMA, ADOBE_RGB, DISPLAY_P3, convert, make_profile
from tests.photos import encode, make_pixels

LIMITS = PhotoSettings()
ACCEPTED = r"send a JPEG, PNG, WebP or HEIC photo\.$"
COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220), "white": (230, 230, 230)}
LAYOUTS = {  # the corners of an upright picture as its file stores them, by EXIF orientation
    1: (("red", "green"), ("blue", "white")),
    2: (("green", "red"), ("white", "blue")),
    3: (("white", "blue"), ("green", "red")),
    4: (("blue", "white"), ("red", "green")),
    5: (("red", "blue"), ("green", "white")),
    6: (("green", "white"), ("red", "blue")),
    7: (("white", "green"), ("blue", "red")),
    8: (("blue", "red"), ("white", "green")),
}


def make_corners(orientation: int = 1, width: int = 160, height: int = 96) -> Image.Image:
    """Four colours, as stored in a file of that orientation whose upright picture is of that size."""
    if orientation >= 5:
        width, height = height, width
    image = Image.new("RGB", (width, height))
    for row, names in enumerate(LAYOUTS[orientation]):
        for column, name in enumerate(names):
            image.paste(COLOURS[name], (column * width // 2, row * height // 2, width, height))
    return image


def expect_upright(pixels: np.ndarray, width: int = 160, height: int = 96) -> None:
    assert pixels.shape == (height, width, 3)
    for y, names in ((height // 4, ("red", "green")), (3 * height // 4, ("blue", "white"))):
        for x, name in ((width // 4, names[0]), (3 * width // 4, names[1])):
            assert np.abs(pixels[y, x].astype(int) - COLOURS[name]).max() <= 6, (y, x, name, pixels[y, x])


def make_exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(kind: str, orientation: int) -> None:
    data = encode(make_corners(orientation), kind, quality=95, exif=make_exif(orientation))
    expect_upright(decode_srgb(data, LIMITS))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_heic_is_turned_by_its_container_whatever_exif_says(orientation: int) -> None:
    """As telephones write them: the boxes irot and imir turn, and EXIF repeats the orientation."""
    data = encode_heic(make_corners(orientation), exif=make_exif(orientation))
    assert (b"irot" in data) or (b"imir" in data) or orientation == 1
    again = with_exif_orientation(data, orientation)
    for heic in (data, again):
        expect_upright(decode_srgb(heic, LIMITS))


def with_exif_orientation(heic: bytes, orientation: int) -> bytes:
    """The same with that value in its EXIF block, little-endian or big-endian as it is there."""
    for order, mark in (("little", b"\x12\x01\x03\x00\x01\x00\x00\x00"), ("big", b"\x01\x12\x00\x03\x00\x00\x00\x01")):
        if (position := heic.find(mark)) >= 0:
            position += len(mark)
            value = orientation.to_bytes(2, "little" if order == "little" else "big")
            return heic[:position] + value + heic[position + 2 :]
    raise AssertionError("no orientation in the file's EXIF")


def test_exif_alone_does_not_turn_a_heic() -> None:
    """The container says that the stored pixels are upright, and it alone counts."""
    data = with_exif_orientation(encode_heic(make_corners(1), exif=make_exif(1)), 6)
    expect_upright(decode_srgb(data, LIMITS))


def test_the_container_alone_turns_a_heic() -> None:
    turned = encode_heic(make_corners(6), exif=make_exif(6))
    data = with_exif_orientation(turned, 1)
    expect_upright(decode_srgb(data, LIMITS))
    untouched = set_rotation(turned, 0)
    assert decode_srgb(untouched, LIMITS).shape == (160, 96, 3)


@pytest.mark.parametrize("bit_depth", [8, 10, 12])
def test_a_heic_of_any_depth_is_scaled_to_8_bits(bit_depth: int) -> None:
    expect_upright(decode_srgb(encode_heic(make_corners(), bit_depth=bit_depth), LIMITS))


def test_a_grey_heic_becomes_rgb() -> None:
    grey = make_corners().convert("L")
    found = decode_srgb(encode_heic(grey), LIMITS)
    assert np.abs(found.astype(int) - np.asarray(grey)[..., None]).mean() < 2


def test_a_heic_in_tiles_is_one_picture() -> None:
    """As telephones write them."""
    pixels = make_pixels(700, 500)
    data = encode_heic(Image.fromarray(pixels), tile_size=256)
    assert b"grid" in data
    found = decode_srgb(data, LIMITS)
    assert found.shape == (500, 700, 3)
    assert np.abs(found.astype(int) - pixels).mean() < 4


# -- colours -----------------------------------------------------------------------------------------------------------

SPACES = {"Display P3": (DISPLAY_P3, None), "Adobe RGB": (ADOBE_RGB, ADOBE_GAMMA)}


@pytest.mark.parametrize("space", list(SPACES))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIC"])
def test_a_profile_is_converted_to_srgb(space: str, kind: str) -> None:
    primaries, gamma = SPACES[space]
    profile = make_profile(primaries, gamma)
    image = make_corners()
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95}
    data = (
        encode_heic(image, icc_profile=profile)
        if kind == "HEIC"
        else encode(image, kind, icc_profile=profile, **options)
    )
    stored = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) if kind != "HEIC" else np.asarray(image)
    expected = convert(stored, primaries, gamma)
    assert np.abs(expected.astype(int) - stored).max() > 20  # there is something to see
    difference = np.abs(decode_srgb(data, LIMITS).astype(int) - expected)
    assert difference[8:40, 8:72].max() <= (8 if kind == "HEIC" else 2)
    assert difference.mean() <= (4 if kind == "HEIC" else 1)


def test_every_colour_of_a_wide_space_comes_where_it_belongs() -> None:
    levels = np.linspace(0, 255, 12).astype(np.uint8)
    pixels = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 48, 3)
    pixels = np.repeat(pixels, 30, axis=0)  # more rows than one strip
    data = encode(Image.fromarray(pixels), "PNG", icc_profile=make_profile(DISPLAY_P3, None))
    found = decode_srgb(data, LIMITS)
    assert np.abs(found.astype(int) - convert(pixels, DISPLAY_P3, None)).max() <= 2


def test_srgb_stays_as_it_is() -> None:
    pixels = make_pixels()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    found = decode_srgb(encode(Image.fromarray(pixels), "PNG", icc_profile=profile), LIMITS)
    assert np.abs(found.astype(int) - pixels).max() <= 1
    assert np.array_equal(decode_srgb(encode(Image.fromarray(pixels), "PNG"), LIMITS), pixels)


@pytest.mark.parametrize("profile", [b"x", b"\0" * 16 + b"RGB " + b"\0" * 200, make_profile(DISPLAY_P3, None)[:300]])
def test_a_broken_profile_is_overlooked(profile: bytes) -> None:
    pixels = make_pixels()
    data = encode(Image.fromarray(pixels), "PNG", icc_profile=profile)
    assert np.array_equal(decode_srgb(data, LIMITS), pixels)


def test_cmyk_and_grey_become_rgb() -> None:
    image = make_corners()
    assert decode_srgb(encode(image.convert("CMYK"), quality=95), LIMITS).shape == (96, 160, 3)
    grey = decode_srgb(encode(image.convert("L"), "PNG"), LIMITS)
    assert np.array_equal(grey[..., 0], np.asarray(image.convert("L")))
    assert np.array_equal(grey[..., 0], grey[..., 2])


def test_sixteen_bits_are_scaled() -> None:
    wide = (np.arange(96 * 160).reshape(96, 160) * 4).astype(np.uint16)
    found = decode_srgb(encode(Image.fromarray(wide), "PNG"), LIMITS)
    assert np.abs(found[..., 0].astype(int) - wide / 257).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "HEIC"])
def test_transparency_is_laid_on_white(kind: str) -> None:
    image = Image.new("RGBA", (64, 64), (200, 0, 0, 0))
    image.paste((0, 0, 200, 255), (0, 0, 32, 64))
    image.paste((0, 0, 0, 128), (32, 32, 64, 64))
    data = encode_heic(image) if kind == "HEIC" else encode(image, kind, lossless=True)
    found = decode_srgb(data, LIMITS).astype(int)
    for (y, x), colour in {(16, 48): (255, 255, 255), (32, 8): (0, 0, 200), (48, 48): (127, 127, 127)}.items():
        assert np.abs(found[y, x] - colour).max() <= 8, (y, x, found[y, x])


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "HEIC"])
def test_of_an_animation_the_first_picture_counts(kind: str) -> None:
    first, second = make_corners(), Image.new("RGB", (160, 96), "black")
    if kind == "HEIC":
        data = encode_heic(first, second)
    else:
        data = encode(first, kind, save_all=True, append_images=[second], lossless=True)
    expect_upright(decode_srgb(data, LIMITS))


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["GIF", "AVIF", "TIFF", "BMP"])
def test_other_formats_are_refused_with_those_accepted(kind: str) -> None:
    with pytest.raises(PhotoUnreadable, match="photo is not an image this service reads; " + ACCEPTED):
        decode_srgb(encode(make_corners(), kind), LIMITS)


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8\xff", b"\0\0\0\x18ftypheic", b"\0\0\0\x10ftypheic\0\0\0\0"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(PhotoUnreadable, match=ACCEPTED):
        decode_srgb(data, LIMITS, "dog.heic")


def test_edits_take_no_heic() -> None:
    with pytest.raises(PhotoUnreadable, match="send a JPEG, PNG, WebP or GIF photo"):
        decode_photo(encode_heic(make_corners()), LIMITS)
    assert "HEIF" not in Image.OPEN


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIC"])
def test_a_file_that_is_cut_off_is_refused(kind: str) -> None:
    image = Image.fromarray(make_pixels(400, 300))
    data = encode_heic(image) if kind == "HEIC" else encode(image, kind)
    for share in (0.05, 0.3, 0.6, 0.95):
        with pytest.raises(PhotoUnreadable, match=ACCEPTED):
            decode_srgb(data[: int(len(data) * share)], LIMITS)


def test_damage_anywhere_in_a_heic_is_refused_or_survived() -> None:
    """Never anything but a picture of its size or a sentence."""
    data = encode_heic(Image.fromarray(make_pixels(96, 64)), quality=50)
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        broken = bytearray(data)
        for position in random.integers(0, len(data), random.integers(1, 8)):
            broken[position] = random.integers(256)
        try:
            pixels = decode_srgb(bytes(broken), LIMITS)
        except (PhotoUnreadable, PhotoTooLarge):
            refused += 1
        else:
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3
    assert 50 < refused < 400


@pytest.mark.parametrize(
    ("width", "height", "words"),
    [
        (100_000, 100_000, "100000 × 100000 pixels; at most 64000000 pixels"),
        (9000, 9000, "9000 × 9000 pixels; at most"),
        (65_501, 900, "an edge may be 65500 pixels long"),
    ],
)
def test_a_heic_that_claims_too_much_is_refused_by_its_header(width: int, height: int, words: str) -> None:
    with pytest.raises(PhotoTooLarge, match=words):
        decode_srgb(claim_size(encode_heic(make_corners()), width, height), LIMITS)


@pytest.mark.parametrize(("width", "height"), [(16, 16), (6000, 6000), (0, 0), (2**31, 2**31), (161, 97)])
def test_a_heic_whose_pixels_are_not_what_its_header_says_is_refused(width: int, height: int) -> None:
    """A small header over a large picture, too: libheif gives its decoder no more room than the header asks for."""
    data = encode_heic(Image.new("L", (1024, 1024), 128), quality=10)
    with pytest.raises(PhotoUnreadable, match=ACCEPTED):
        decode_srgb(claim_size(data, width, height), LIMITS)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIC"])
def test_the_configured_limits_hold(kind: str) -> None:
    image = Image.new("L", (1100, 1000), 128)
    data = encode_heic(image, quality=10) if kind == "HEIC" else encode(image.convert("RGB"), kind)
    with pytest.raises(PhotoTooLarge, match="1100 × 1000 pixels; at most 1000000"):
        decode_srgb(data, PhotoSettings(max_pixels=1_000_000), "dog")
    with pytest.raises(PhotoTooLarge, match=f"dog has {len(data) + 2000} bytes; at most 1024 are accepted"):
        decode_srgb(data + bytes(2000), PhotoSettings(max_bytes=1024), "dog")


def test_the_same_file_gives_the_same_pixels() -> None:
    data = encode_heic(Image.fromarray(make_pixels(400, 300)), icc_profile=make_profile(DISPLAY_P3, None))
    first = decode_srgb(data, LIMITS)
    for _ in range(3):
        assert np.array_equal(decode_srgb(data, LIMITS), first)
