"""Headshots through the real service: asked for in every way, of every kind of photo, and fetched by their links."""

from __future__ import annotations

import asyncio
import io
import time
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageFilter

from pawfect.client import Client
from pawfect.demo import SAMPLE
from pawfect.sessions import Backend
from tests.acceptance.edits.conftest import Running
from tests.photos import encode, make_pixels

pytestmark = [pytest.mark.serve, pytest.mark.weights]

PET = Image.open(SAMPLE / "pet.jpg").convert("RGB")
PATIENCE_S = 120.0
MEGABYTE = 2**20


def make_heic(image: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    pillow_heif.from_pillow(image).save(out, quality=80, **options)
    return out.getvalue()


def turn(image: Image.Image, orientation: int) -> bytes:
    """Stored on its side, with the tag that says so: 6 is a quarter turn clockwise to be upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image.transpose(Image.Transpose.ROTATE_90), exif=exif, quality=92)


def make_animation() -> bytes:
    return encode(PET.resize((800, 800)), "WEBP", save_all=True, append_images=[Image.new("RGB", (800, 800))])


def make_padded_png(size: int) -> bytes:
    """A real PNG with so many bytes behind its end."""
    data = encode(PET.resize((600, 600)), "PNG")
    return data + bytes(size - len(data))


def open_png(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode) == ("PNG", "RGBA")
    assert image.info.get("srgb") is not None or image.info.get("icc_profile")
    return np.asarray(image)


async def wait(client: Client, job_id: str) -> dict[str, Any]:
    """Until it is done or failed; its statuses on the way only ever go forward."""
    seen: list[str] = []
    async with asyncio.timeout(PATIENCE_S):
        while True:
            view: dict[str, Any] = (await client.get_headshot(job_id)).json()
            if view["status"] not in seen:
                seen.append(view["status"])
            if view["status"] in ("done", "failed"):
                assert seen == [name for name in ("queued", "processing", view["status"]) if name in seen]
                return view
            assert view.keys() == {"job_id", "status"}
            await asyncio.sleep(0.1)


async def make(client: Client, photo: bytes, name: str = "pet.jpg") -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """The answer, and the preview and print as [H, W, 4] uint8."""
    answer = await client.make_headshot(photo, name)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    preview, large = [open_png((await client.fetch(body[f"{kind}_url"])).content) for kind in ("preview", "print")]
    return body, preview, large


def expect_headshot(pixels: np.ndarray, long_edge: int) -> None:
    """4:5, grey, transparent at the corners, with a cat of some size in it."""
    height, width = pixels.shape[:2]
    assert height <= long_edge
    assert abs(width / height - 0.8) < 0.01
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert (pixels[..., 0] == pixels[..., 2]).all()
    alpha = pixels[..., 3]
    assert alpha[0, 0] == 0
    assert 0.2 < (alpha == 255).mean() < 0.95
    soft = ((alpha > 0) & (alpha < 255)).mean()
    assert soft > 0.005


async def test_a_photo_becomes_a_headshot(client: Client, service: Running) -> None:
    photo = (SAMPLE / "pet.jpg").read_bytes()
    body, preview, large = await make(client, photo, "my cat.jpg")
    expect_headshot(preview, 1600)
    expect_headshot(large, 3000)
    assert max(large.shape) >= max(preview.shape)
    assert body["quality"]["metrics"]["h"] == PET.height
    assert body["quality"]["pass"] is (not body["quality"]["reasons"])
    folder = service.data / "photos" / "headshots"
    assert (folder / "originals" / body["job_id"] / "original" / "my_cat.jpg").read_bytes() == photo
    assert {path.name for path in (folder / "outputs" / body["job_id"]).rglob("*.*")} == {"preview.png", "print.png"}


async def test_statuses_go_forward_and_the_document_follows(client: Client, backend: Backend) -> None:
    answer = await client.ask_for_headshot((SAMPLE / "pet.jpg").read_bytes())
    assert answer.status_code == 202
    job_id = answer.json()["job_id"]
    assert answer.json() == {"job_id": job_id, "status": "queued"}
    view = await wait(client, job_id)
    assert view["status"] == "done"
    events = [event.name async for event in client.follow(job_id)]
    assert events[-1] == "done"
    document = await backend.read_headshot(job_id)
    assert document is not None
    assert (document["status"], document["quality"]) == ("done", view["quality"])
    assert (await client.fetch(document["print_url"])).status_code == 200


async def test_a_push_makes_one_and_is_acknowledged_once_it_is_there(client: Client, service: Running) -> None:
    original = service.data / "photos" / "headshots" / "originals" / "perkie-7" / "original" / "cat.jpg"
    original.parent.mkdir(parents=True)
    original.write_bytes((SAMPLE / "pet.jpg").read_bytes())
    message = {"job_id": "perkie-7", "orig_bucket": "local", "orig_key": "perkie-7/original/cat.jpg"}
    assert await client.push_headshot("h1", message) == 204
    view = (await client.get_headshot("perkie-7")).json()
    assert view["status"] == "done"
    assert (
        await client.push_headshot("h2", {**message, "job_id": "perkie-8", "orig_key": "perkie-8/original/no"}) == 204
    )
    assert (await client.get_headshot("perkie-8")).json()["error_code"] == "object_missing"


async def test_an_upload_first(client: Client) -> None:
    ticket = (await client.open_upload("image/heic", "IMG_1.HEIC")).json()
    photo = make_heic(PET)
    assert (await client.upload({**ticket, "headers": {"Content-Type": "text/plain"}}, photo)).status_code >= 400
    assert (await client.upload(ticket, photo)).is_success
    assert (await client.upload(ticket, photo)).status_code == 409
    assert (await client.start_headshot(ticket["job_id"], ticket["orig_key"])).status_code == 202
    assert (await wait(client, ticket["job_id"]))["status"] == "done"


async def test_links_end_and_cannot_be_changed(client: Client) -> None:
    job_id = (await client.ask_for_headshot((SAMPLE / "pet.jpg").read_bytes())).json()["job_id"]
    await wait(client, job_id)
    view = (await client.get_headshot(job_id)).json()
    link, asked_at = view["print_url"], time.time()
    good = await client.fetch(link)
    assert (good.status_code, good.headers["content-type"]) == (200, "image/png")
    changed = [link[:-1] + ("0" if link[-1] != "0" else "1"), link.replace("print.png", "preview.png", 1)]
    for tampered in changed:
        assert (await client.fetch(tampered)).status_code == 403
    ending = [int(part.partition("=")[2]) for part in link.partition("?")[2].split("&") if part.startswith("expires=")]
    assert (await client.fetch(link.replace(str(ending[0]), str(ending[0] + 9), 1))).status_code == 403
    assert ending[0] - asked_at <= 10
    await asyncio.sleep(max(0.0, ending[0] - time.time()) + 0.5)
    assert (await client.fetch(link)).status_code == 410
    fresh = (await client.get_headshot(job_id)).json()["print_url"]
    assert (await client.fetch(fresh)).content == good.content


UPRIGHT = {
    "jpeg on its side": turn(PET, 6),
    "heic": make_heic(PET),
    "png": encode(PET.resize((900, 900)), "PNG"),
    "webp": encode(PET, "WEBP", quality=90),
    "animated webp": make_animation(),
    "cmyk": encode(PET.convert("CMYK"), quality=92),
    "20 megapixels": encode(PET.resize((4480, 4480)), quality=88),
}


REFERENCE: list[np.ndarray] = []
"""The preview of the upright JPEG, once it is made."""


@pytest.mark.parametrize("kind", list(UPRIGHT))
async def test_every_kind_of_photo_gives_the_same_cat(client: Client, kind: str) -> None:
    body, preview, large = await make(client, UPRIGHT[kind])
    expect_headshot(large, 3000)
    if not REFERENCE:
        REFERENCE.append((await make(client, encode(PET, quality=92)))[1])
    (reference,) = REFERENCE
    small = [
        np.asarray(Image.fromarray(pixels[..., 3]).resize((80, 100)), np.float32) / 255
        for pixels in (preview, reference)
    ]
    assert np.abs(small[0] - small[1]).mean() < 0.05
    if kind == "png":
        assert "image_too_small" in body["quality"]["reasons"]


NONE = {
    "text": (b"not a photo\n" * 100, 400, "unsupported_image"),
    "gif": (encode(PET.resize((600, 600)), "GIF"), 400, "unsupported_image"),
    "truncated jpeg": ((SAMPLE / "pet.jpg").read_bytes()[:40_000], 422, "photo_unreadable"),
    "truncated heic": (make_heic(PET)[:20_000], 422, "photo_unreadable"),
    "60 MB": (make_padded_png(60 * MEGABYTE), 413, "request_entity_too_large"),
    "no pet": (encode(Image.new("RGB", (1600, 1200), (120, 140, 160))), 422, "headshot_rejected"),
    "tiny": (encode(PET.resize((8, 8))), 422, "headshot_rejected"),
    "empty": (b"", 422, "invalid_request"),
}


@pytest.mark.parametrize("kind", list(NONE))
async def test_what_gives_no_headshot_is_said_and_leaves_nothing_half(
    client: Client, service: Running, kind: str
) -> None:
    photo, status, code = NONE[kind]
    outputs = service.data / "photos" / "headshots" / "outputs"
    before = set(outputs.rglob("*")) if outputs.exists() else set()
    answer = await client.make_headshot(photo)
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["type"] == f"urn:pawfect:problem:{code}"
    assert body["detail"].endswith(".")
    if "job_id" in body:
        view = (await client.get_headshot(body["job_id"])).json()
        assert (view["status"], view["error"]) == ("failed", body["detail"])
    assert (set(outputs.rglob("*")) if outputs.exists() else set()) == before


async def test_a_poor_photo_is_made_and_reported(client: Client) -> None:
    blurred = PET.resize((1200, 1200)).filter(ImageFilter.GaussianBlur(9))
    body, _, large = await make(client, encode(blurred, quality=92))
    assert body["quality"]["pass"] is False
    assert {"image_blurry", "image_too_small"} <= set(body["quality"]["reasons"])
    expect_headshot(large, 3000)


async def test_the_same_photo_gives_the_same_bytes(client: Client) -> None:
    first, second = [await make(client, (SAMPLE / "pet.jpg").read_bytes()) for _ in range(2)]
    assert (first[2] == second[2]).all()
    assert first[0]["quality"] == second[0]["quality"]


async def test_in_noise_no_pet_is_found(client: Client) -> None:
    answer = await client.make_headshot(encode(Image.fromarray(make_pixels(1600, 1200)), quality=90))
    assert answer.status_code == 422
    assert "subject_not_found" in answer.json()["reasons"]


async def test_a_running_headshot_can_be_cancelled(client: Client) -> None:
    """Behind others, so that it has not ended before."""
    photo = (SAMPLE / "pet.jpg").read_bytes()
    jobs = [(await client.ask_for_headshot(photo)).json()["job_id"] for _ in range(3)]
    assert (await client.cancel_job(jobs[-1])).status_code in (200, 202)
    view = await wait(client, jobs[-1])
    assert (view["status"], view["error_code"]) == ("failed", "cancelled")
    assert [(await wait(client, job))["status"] for job in jobs[:2]] == ["done", "done"]
