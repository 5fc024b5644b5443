"""What a file is, by its first bytes; whoever only passes it on need not know how images are read."""

from __future__ import annotations

MEDIA_TYPES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
)
"""How files that edits can read begin."""

HEADSHOT_TYPES = ("image/jpeg", "image/png", "image/webp", "image/heic")
"""What a headshot can be made of."""

_HEIC_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1", b"heim", b"heis"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_MOST_BRANDS = 64
"""Looked at, however long the box claims to be; files name about five."""


def find_media_type(data: bytes) -> str | None:
    """Of a file that edits can read; None for any other."""
    kind = next((kind for start, kind in MEDIA_TYPES if data.startswith(start)), None)
    return None if kind == "image/webp" and data[8:12] != b"WEBP" else kind


def find_headshot_type(data: bytes) -> str | None:
    """One of `HEADSHOT_TYPES`; None for any other file. HEIF is image/heic under any of its brands, but for AVIF."""
    kind = "image/heic" if _is_heic(data) else find_media_type(data)
    return kind if kind in HEADSHOT_TYPES else None


def _is_heic(data: bytes) -> bool:
    """By the brands of the file type box (ISO/IEC 14496-12, 4.3; ISO/IEC 23008-12, 10 and annex B): mif1 and msf1 say
    nothing of the coding, so that a file which is also branded AVIF is one."""
    if data[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(data[:4], "big"), len(data), 16 + 4 * _MOST_BRANDS)
    brands = {data[8:12], *(data[start : start + 4] for start in range(16, end, 4))}
    return bool(brands & _HEIC_BRANDS) and not brands & _AVIF_BRANDS
