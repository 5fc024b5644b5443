"""Images in base64, as JSON has to carry them."""

from __future__ import annotations

import asyncio
import binascii

from serve_app.errors import InvalidRequest, TooLarge
from serve_app.settings_sections import PhotoSettings

PIECE = 4 * 2**20
"""Characters of base64 decoded at once, a multiple of four. The codec holds the interpreter, threads or not; a piece
takes about 15 ms, a whole photo of 50 MB a quarter of a second in which nobody else would be answered."""


async def decode_image(text: str, field: str, photos: PhotoSettings) -> bytes:
    """A file from base64, or from a data: URL of it (RFC 2397). Raises InvalidRequest, TooLarge."""
    if text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if not head.lower().endswith(";base64"):
            raise InvalidRequest(f"{field} is a data: URL without base64; send data:image/png;base64,….", field)
    try:
        data = await asyncio.to_thread(decode_base64, text)
    except ValueError:
        raise InvalidRequest(
            f"{field} is not base64; send the file's bytes in standard base64 (RFC 4648, section 4) with its padding, "
            "or a data: URL of them; addresses are not fetched.",
            field,
        ) from None
    check_size(field, len(data), photos)
    return data


def decode_base64(text: str) -> bytes:
    """With line breaks or without. Raises ValueError."""
    text = "".join(text.split())
    if text.find("=", 0, max(0, len(text) - 2)) >= 0:
        raise ValueError("padding before the end")
    return b"".join(
        binascii.a2b_base64(text[start : start + PIECE], strict_mode=True) for start in range(0, len(text), PIECE)
    )


def check_size(field: str, size: int, photos: PhotoSettings) -> None:
    """Raises TooLarge."""
    if size > photos.max_bytes:
        raise TooLarge(f"{field} has {size} bytes; at most {photos.max_bytes} are accepted.", field)
