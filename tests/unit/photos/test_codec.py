"""Every odd file a phone or a script can send."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from serve_app import __version__
from serve_app.errors import MaskUnreadable, PhotoTooLarge, PhotoUnreadable
from serve_app.photos.codec import decode_mask, decode_photo, encode_image, encode_photo, encode_preview, open_photo
from serve_app.settings_sections import PhotoSettings

LIMITS = PhotoSettings()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ORIENTATION, MAKER = 0x0112, 0x010F


def file(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def scene(width: int = 60, height: int = 40) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    planes = [x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)]
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))


def exif(**tags: int | str) -> bytes:
    data = Image.Exif()
    data[MAKER] = tags.get("maker", "Pawcam")
    data[ORIENTATION] = tags.get("orientation", 1)
    return data.tobytes()


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"never decoded") + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_reads_every_accepted_format(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = decode_photo(file(scene(), kind, **options), LIMITS).pixels
    assert pixels.shape == (40, 60, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - np.asarray(scene()).astype(int)).mean() < 12


def test_reads_the_first_picture_of_an_mpo() -> None:
    data = file(scene(), "MPO", save_all=True, append_images=[Image.new("RGB", (60, 40))])
    assert decode_photo(data, LIMITS).pixels.mean() > 60


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    wide = np.array([[0, 257, 32768, 65535]], np.uint16)
    pixels = decode_photo(file(Image.fromarray(wide)), LIMITS).pixels
    assert pixels[0, :, 0].tolist() == [0, 1, 128, 255]


def test_cmyk_without_a_profile() -> None:
    pixels = decode_photo(file(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95), LIMITS).pixels
    assert pixels[..., 0].min() > 240
    assert pixels[..., 1:].max() < 30


def test_cmyk_with_a_broken_profile_drops_it() -> None:
    data = file(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", icc_profile=b"not a profile" * 20)
    photo = decode_photo(data, LIMITS)
    assert photo.icc_profile is None
    assert photo.pixels[0, 0, 2] > 200


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA"])
def test_other_modes_become_rgb(mode: str) -> None:
    assert decode_photo(file(scene().convert(mode)), LIMITS).pixels.shape == (40, 60, 3)


def test_transparency_is_laid_on_white() -> None:
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    image.putpixel((1, 0), (10, 20, 30, 0))
    assert decode_photo(file(image), LIMITS).pixels.tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_an_animation_counts_by_its_first_frame() -> None:
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    data = file(red, "GIF", save_all=True, append_images=[blue])
    assert decode_photo(data, LIMITS).pixels[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_only_an_rgb_photo_keeps_its_rgb_profile(mode: str) -> None:
    grey = SRGB[:16] + b"GRAY" + SRGB[20:]
    for profile, kept in ((SRGB, SRGB), (grey, None)):
        assert decode_photo(file(scene().convert(mode), icc_profile=profile), LIMITS).icc_profile == kept


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_reset_and_the_rest_kept(orientation: int) -> None:
    data = file(scene(), "PNG", exif=exif(orientation=orientation))
    photo = decode_photo(data, LIMITS)
    expected = np.asarray(scene())
    if orientation >= 5:
        expected = expected.transpose(1, 0, 2)
    rows, columns = (-1 if orientation in (3, 4, 7, 8) else 1), (-1 if orientation in (2, 3, 6, 7) else 1)
    assert np.array_equal(photo.pixels, expected[::rows, ::columns])
    kept = Image.Exif()
    kept.load(photo.exif)
    assert kept[ORIENTATION] == 1
    assert kept[MAKER] == "Pawcam"
    opened = open_photo(data, LIMITS)
    assert (opened.height, opened.width) == photo.pixels.shape[:2]


def test_a_nonsensical_orientation_is_ignored() -> None:
    assert decode_photo(file(scene(), "JPEG", exif=exif(orientation=77)), LIMITS).pixels.shape == (40, 60, 3)


def test_one_pixel() -> None:
    assert decode_photo(file(Image.new("RGB", (1, 1), "red")), LIMITS).pixels.tolist() == [[[255, 0, 0]]]


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (10_000, 9_500), (9_000, 8_000), (65_501, 4)])
def test_too_many_pixels_are_refused_by_the_header(width: int, height: int) -> None:
    with pytest.raises(PhotoTooLarge, match="pixels"):
        decode_photo(png_header(width, height), LIMITS)


def test_too_many_bytes_are_refused_before_reading() -> None:
    with pytest.raises(PhotoTooLarge, match="bytes"):
        decode_photo(b"x" * 2000, PhotoSettings(max_bytes=1024))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_photo_is_unreadable(kind: str) -> None:
    data = file(scene(200, 200), kind)
    for share in (0.3, 0.7):
        with pytest.raises(PhotoUnreadable, match=r"original\.jpg"):
            decode_photo(data[: int(len(data) * share)], LIMITS)


@pytest.mark.parametrize("data", [b"", b"hello, this is a text file\n" * 40])
def test_what_is_no_image_is_answered_with_a_sentence(data: bytes) -> None:
    with pytest.raises(PhotoUnreadable, match=r"original\.jpg is .*send a JPEG, PNG, WebP or GIF photo"):
        decode_photo(data, LIMITS)


def test_a_tiff_is_not_taken_for_a_photo() -> None:
    with pytest.raises(PhotoUnreadable):
        decode_photo(file(scene(), "TIFF"), LIMITS)


@pytest.mark.parametrize(("subsampling", "kept"), [("4:2:0", "4:2:0"), ("4:4:4", "4:4:4"), ("4:2:2", "4:4:4")])
def test_chroma_is_never_made_coarser(subsampling: str, kept: str) -> None:
    assert decode_photo(file(scene(), "JPEG", subsampling=subsampling), LIMITS).subsampling == kept


MASK = np.array([[0, 255], [128, 127]], np.uint8)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_a_mask_in_any_mode(mode: str) -> None:
    assert np.array_equal(decode_mask(file(Image.fromarray(MASK).convert(mode)), LIMITS), MASK)


def test_a_mask_of_one_bit_and_of_sixteen() -> None:
    assert decode_mask(file(Image.fromarray(MASK > 127)), LIMITS).tolist() == [[0, 255], [255, 0]]
    assert np.array_equal(decode_mask(file(Image.fromarray(MASK.astype(np.uint16) * 257)), LIMITS), MASK)


def test_a_transparent_mask_pixel_is_not_edited() -> None:
    image = Image.new("RGBA", (2, 1), (255, 255, 255, 255))
    image.putpixel((1, 0), (255, 255, 255, 0))
    assert decode_mask(file(image), LIMITS).tolist() == [[255, 0]]


def test_a_transparent_mask_pixel_is_edited_where_transparency_marks() -> None:
    image = Image.new("RGBA", (3, 1), (255, 255, 255, 255))
    image.putpixel((1, 0), (255, 255, 255, 0))
    image.putpixel((2, 0), (0, 0, 0, 100))
    assert decode_mask(file(image), LIMITS, convention="transparent").tolist() == [[0, 255, 155]]


@pytest.mark.parametrize(("mode", "depth"), [("P", np.uint8), ("L", np.uint8), ("I;16", np.uint16)])
def test_a_transparent_colour_marks_as_alpha_does(mode: str, depth: type[np.unsignedinteger]) -> None:
    image = Image.fromarray(np.array([[0, 7]], depth))
    data = file(image if mode != "P" else image.convert("P"), transparency=7)
    assert decode_mask(data, LIMITS, convention="transparent").tolist() == [[0, 255]]


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_without_any_transparency_white_marks(mode: str) -> None:
    data = file(Image.fromarray(MASK).convert(mode))
    assert np.array_equal(decode_mask(data, LIMITS, convention="transparent"), MASK)


def test_a_mask_is_turned_by_its_own_orientation() -> None:
    data = file(Image.fromarray(MASK), exif=exif(orientation=3))
    assert np.array_equal(decode_mask(data, LIMITS), MASK[::-1, ::-1])


def test_a_bad_mask_is_named() -> None:
    with pytest.raises(MaskUnreadable, match=r"mask_auto\.png"):
        decode_mask(b"no image", LIMITS)
    with pytest.raises(PhotoTooLarge, match=r"mask_auto\.png"):
        decode_mask(png_header(20_000, 20_000), LIMITS)


def test_encoding_keeps_size_profile_and_exif() -> None:
    data = encode_photo(np.asarray(scene()), SRGB, exif(), 95, "4:4:4")
    again = decode_photo(data, LIMITS)
    assert again.icc_profile == SRGB
    assert again.exif is not None
    assert again.subsampling == "4:4:4"
    assert np.abs(again.pixels.astype(int) - np.asarray(scene())).max() < 16


def test_a_png_tells_of_its_version_and_keeps_every_pixel() -> None:
    pixels = np.asarray(scene())
    data = encode_image(pixels, SRGB, exif(), 95, "png")
    with Image.open(io.BytesIO(data)) as image:
        assert image.info["Software"] == f"Pawfect {__version__}"
        assert image.info["icc_profile"] == SRGB
        assert np.array_equal(np.asarray(image), pixels)
    assert encode_image(pixels, SRGB, exif(), 95, "png") == data
    for other in ("jpeg", "webp"):
        assert b"Pawfect" not in encode_image(pixels, SRGB, None, 95, other)


def test_exif_too_long_for_a_jpeg_is_left_out() -> None:
    assert decode_photo(encode_photo(np.asarray(scene()), None, b"Exif\0\0" + b"x" * 70_000, 95), LIMITS).exif is None


@pytest.mark.parametrize(("size", "expected"), [((600, 400), (100, 67)), ((40, 60), (40, 60)), ((3000, 2), (100, 1))])
def test_a_preview_is_never_enlarged(size: tuple[int, int], expected: tuple[int, int]) -> None:
    data = encode_preview(np.asarray(scene(*size)), None, 100, 85)
    assert Image.open(io.BytesIO(data)).size == expected


def test_a_small_file_of_thousands_of_scans_is_not_decoded() -> None:
    data = file(scene(400, 300), "JPEG", progressive=True)
    assert decode_photo(data, LIMITS).pixels.shape == (300, 400, 3)
    scan = data[data.index(b"\xff\xda") : data.index(b"\xff\xc4", data.index(b"\xff\xda"))]
    at = data.index(b"\xff\xda")
    with pytest.raises(PhotoTooLarge, match="scans"):
        decode_photo(data[:at] + scan * 500 + data[at:], LIMITS)
