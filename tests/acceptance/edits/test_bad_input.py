"""Every odd photo and mask the issue tracker ever saw, through the real service: it works, or it says why not."""

from __future__ import annotations

import io
import uuid

import numpy as np
import pytest
from PIL import Image

from pawfect.client import Client
from pawfect.sessions import Backend
from serve_app.jobs.model import Session
from tests.photos import encode, make_mask, make_photo, make_pixels

pytestmark = pytest.mark.serve

RGB = Image.fromarray(make_pixels())


def make_sixteen_bit() -> bytes:
    grey = np.asarray(RGB.convert("L")).astype(np.uint16) * 257
    return encode(Image.fromarray(grey), "PNG")


def make_animation(kind: str) -> bytes:
    frames = [Image.fromarray(make_pixels(seed=seed)) for seed in range(3)]
    return encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)


def turn(photo: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(photo, exif=exif, quality=95)


WORKS: dict[str, tuple[bytes, bytes, tuple[int, int]]] = {
    "16-bit": (make_sixteen_bit(), make_mask(), (160, 120)),
    "cmyk": (encode(RGB.convert("CMYK")), make_mask(), (160, 120)),
    "palette": (encode(RGB.quantize(64), "PNG"), make_mask(), (160, 120)),
    "grey": (encode(RGB.convert("L")), make_mask(), (160, 120)),
    "alpha": (encode(RGB.convert("RGBA"), "PNG"), make_mask(), (160, 120)),
    "animated gif": (make_animation("GIF"), make_mask(), (160, 120)),
    "animated webp": (make_animation("WEBP"), make_mask(), (160, 120)),
    "1x1": (make_photo(1, 1), make_mask(1, 1, (0, 0, 1, 1)), (1, 1)),
    "panorama": (make_photo(2000, 16), make_mask(2000, 16, (900, 0, 1000, 16)), (2000, 16)),
    "mask of everything": (make_photo(), make_mask(box=(0, 0, 160, 120)), (160, 120)),
    "mask of half the size": (make_photo(), make_mask(80, 60, (20, 15, 50, 25)), (160, 120)),
    "rotated photo": (turn(RGB, 6), make_mask(120, 160, (40, 30, 60, 100)), (120, 160)),
    "mask for the unrotated photo": (turn(RGB, 6), make_mask(160, 120), (120, 160)),
    "rgba mask": (
        make_photo(),
        encode(Image.open(io.BytesIO(make_mask())).convert("RGBA"), "PNG"),
        (160, 120),
    ),
}

FAILS: dict[str, tuple[bytes, bytes, str, str]] = {
    "text file": (b"not a photo\n" * 100, make_mask(), "photo_unreadable", "original.jpg"),
    "truncated": (make_photo(800, 600)[:20_000], make_mask(800, 600), "photo_unreadable", "original.jpg"),
    "bomb": (encode(Image.new("1", (20000, 20000)), "PNG"), make_mask(), "photo_too_large", "at most 64000000"),
    "60 MB": (make_photo() + bytes(60_000_000), make_mask(), "photo_too_large", "bytes"),
    "empty mask": (make_photo(), make_mask(box=None), "mask_empty", "mask"),
    "text as mask": (make_photo(), b"not a mask", "mask_unreadable", "mask_auto.png"),
    "mask of another shape": (make_photo(), make_mask(160, 40, (0, 0, 20, 20)), "mask_unreadable", "160"),
}


async def push(client: Client, session: Session) -> int:
    message = {"userId": session.user_id, "sessionId": session.session_id}
    return await client.push(f"m-{uuid.uuid4().hex}", message)


@pytest.mark.parametrize("case", WORKS)
async def test_odd_but_good_photos_are_edited(client: Client, backend: Backend, session: Session, case: str) -> None:
    photo, mask, size = WORKS[case]
    await backend.create(session, photo, mask)
    assert await push(client, session) == 204
    document = await backend.read(session)
    assert document is not None
    assert (document["processingStatus"], document["errorMessage"]) == ("completed", None)
    edited = Image.open(io.BytesIO(await backend.download(session.edited_path)))
    assert (edited.format, edited.mode, edited.size) == ("JPEG", "RGB", size)
    assert edited.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("case", FAILS)
async def test_bad_photos_fail_with_a_sentence(client: Client, backend: Backend, session: Session, case: str) -> None:
    photo, mask, code, words = FAILS[case]
    await backend.create(session, photo, mask)
    assert await push(client, session) == 204
    view = (await client.show(session.user_id, session.session_id)).json()
    assert (view["processingStatus"], view["job"]["errorCode"], view["job"]["attempts"]) == ("failed", code, 1)
    assert words in view["errorMessage"]
    assert view["errorMessage"].endswith(".")
    assert view["editedImagePath"] is None
