"""Files told by their first bytes."""

from __future__ import annotations

import struct
import subprocess
import sys

import pytest
from PIL import Image

from serve_app.photos.media_types import find_headshot_type, find_media_type
from tests.heic import encode_heic
from tests.photos import encode, make_mask, make_photo


def make_ftyp(major: bytes, *compatible: bytes, size: int | None = None) -> bytes:
    brands = b"".join(compatible)
    return struct.pack(">I", 16 + len(brands) if size is None else size) + b"ftyp" + major + bytes(4) + brands


def test_files_are_told_by_their_first_bytes() -> None:
    assert find_media_type(make_photo()) == "image/jpeg"
    assert find_media_type(make_mask()) == "image/png"
    assert find_media_type(b"RIFF1234WEBPVP8 ") == "image/webp"
    assert find_media_type(b"RIFF1234WAVEfmt ") is None
    assert find_media_type(b"GIF89a") == "image/gif"
    assert find_media_type(make_ftyp(b"heic", b"mif1")) is None
    assert find_media_type(b"") is None


def test_real_files_of_headshots_are_told() -> None:
    image = Image.new("RGB", (64, 64))
    for kind in ("JPEG", "PNG", "WEBP"):
        assert find_headshot_type(encode(image, kind)) == f"image/{kind.lower()}"
    assert find_headshot_type(encode_heic(image)) == "image/heic"
    assert find_headshot_type(encode_heic(Image.new("RGBA", (64, 64)), bit_depth=10)) == "image/heic"
    for kind in ("GIF", "AVIF", "TIFF", "BMP"):
        assert find_headshot_type(encode(image, kind)) is None


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1", b"heim", b"heis"])
def test_every_brand_of_heic_counts(brand: bytes) -> None:
    assert find_headshot_type(make_ftyp(brand)) == "image/heic"
    assert find_headshot_type(make_ftyp(brand, b"mif1", b"miaf")) == "image/heic"
    assert find_headshot_type(make_ftyp(b"MiHB", b"miaf", brand)) == "image/heic"


@pytest.mark.parametrize(
    "data",
    [
        make_ftyp(b"avif", b"mif1", b"miaf"),
        make_ftyp(b"mif1", b"avif", b"miaf"),
        make_ftyp(b"mif1", b"miaf", b"MA1B", b"avis"),
        make_ftyp(b"isom", b"mp42"),
        make_ftyp(b"qt  "),
        make_ftyp(b"heic")[:11],
        b"\0\0\0\x18ftyp",
        b"\0\0\0\x18free" + b"heic" * 4,
        b"heic" * 10,
        b"",
        b"hello",
        b"%PDF-1.7",
        b"GIF89a",
    ],
)
def test_anything_else_is_no_headshots_file(data: bytes) -> None:
    assert find_headshot_type(data) is None


@pytest.mark.parametrize("size", [0, 1, 8, 15, 2**32 - 1])
def test_a_box_of_any_size_is_read_within_its_bounds(size: int) -> None:
    """What lies behind the box is no brand; a size that makes no sense hides none of the file's first."""
    data = make_ftyp(b"isom", size=size)
    assert find_headshot_type(data) is None
    assert find_headshot_type(make_ftyp(b"heic", size=size)) == "image/heic"
    assert find_headshot_type(make_ftyp(b"isom") + b"heic") is None


def test_a_box_of_millions_of_brands_is_not_read_through() -> None:
    assert find_headshot_type(make_ftyp(b"isom", *[b"isom"] * 63, b"heic")) == "image/heic"
    assert find_headshot_type(make_ftyp(b"isom", *[b"isom"] * 64, b"heic")) is None


def test_nobody_loads_a_codec_for_it() -> None:
    code = "import sys, serve_app.photos.media_types; sys.exit(any(n in sys.modules for n in ('PIL', 'pillow_heif')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
