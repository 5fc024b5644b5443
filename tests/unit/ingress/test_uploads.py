"""Bodies with images, as `POST /v1/jobs` takes them."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from ingress import uploads
from ingress.base64_images import PIECE, decode_base64
from ingress.uploads import limit_body, read_job
from serve_app.errors import InvalidRequest
from serve_app.settings_sections import FluxSettings, PhotoSettings
from tests.api import Api, expect_problem, open_api
from tests.photos import make_mask, make_photo

JOBS = "/v1/jobs"
PHOTO, MASK = make_photo(), make_mask()
FILES = {"init_image": ("photo.jpg", PHOTO, "image/jpeg"), "mask_image": ("mask.png", MASK, "image/png")}
SMALL = {"photos": PhotoSettings(max_bytes=64 * 2**10)}


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def inpaint(**fields: Any) -> dict[str, Any]:
    return {"operation": "ImageInpaint", "init_image": encode(PHOTO), "mask_image": encode(MASK), **fields}


async def expect_nothing_kept(api: Api) -> None:
    assert (await api.bench.stores.jobs.backlog(0.0)).queued == 0
    assert not (api.bench.settings.data_dir / "photos" / "jobs").exists()


async def send_parts(api: Api, parts: list[bytes], end: bytes = b"--b--\r\n") -> httpx.Response:
    body = b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + end
    return await api.http.post(JOBS, content=body, headers={"content-type": "multipart/form-data; boundary=b"})


def write_part(name: str, value: bytes, filename: str | None = None) -> bytes:
    file = f'; filename="{filename}"' if filename is not None else ""
    return f'Content-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + value


# -- base64 --------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=300), st.integers(1, 80))
def test_base64_is_read_with_and_without_line_breaks(data: bytes, width: int) -> None:
    text = encode(data)
    assert decode_base64(text) == data
    assert decode_base64("\r\n".join(text[at : at + width] for at in range(0, len(text), width))) == data


def test_base64_of_several_pieces() -> None:
    data = os.urandom(PIECE)
    assert decode_base64(encode(data)) == data


@pytest.mark.parametrize(
    "text",
    ["A", "AA", "AAA", "A===", "AA==AAAA", "=AAA", "AA-_", "AA!A", "ÄÄÄÄ", "https://example.com/a.jpg", "%41%41"],
)
def test_what_is_no_base64(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_base64(text)


def test_padding_at_the_end_of_an_inner_piece_is_no_base64() -> None:
    with pytest.raises(ValueError, match="padding"):
        decode_base64("A" * (PIECE - 2) + "==" + "AAAA")


# -- both kinds ----------------------------------------------------------------------------------------------------


async def test_json_and_multipart_ask_for_the_same(tmp_path: Path) -> None:
    fields = {"prompt": "grass, größer", "steps": 3, "guidance_scale": 2.5, "seed": 2**63 - 1, "priority": "low"}
    async with open_api(tmp_path, start=False) as api:
        key = {"Idempotency-Key": "k"}
        first = await api.http.post(JOBS, json=inpaint(**fields), headers=key)
        assert first.status_code == 202, first.text
        texts = {"operation": "ImageInpaint", **{name: str(value) for name, value in fields.items()}}
        # A form sends its empty fields, too.
        again = await api.http.post(JOBS, data={**texts, "width": "", "model": ""}, files=FILES, headers=key)
        assert again.json() == first.json()


async def test_a_data_url_is_its_file(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        url = f"data:image/jpeg;base64,{encode(PHOTO)}"
        response = await api.http.post(JOBS, json=inpaint(init_image=url))
        assert response.status_code == 202, response.text
        stored = tmp_path / "photos" / "jobs" / response.json()["job_id"] / "init_image"
        assert stored.read_bytes() == PHOTO


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"init_image": "data:image/png,abc"}, "init_image", "data: URL without base64"),
        ({"init_image": "not base64!"}, "init_image", "RFC 4648"),
        ({"mask_image": "https://example.com/mask.png"}, "mask_image", "addresses are not fetched"),
        ({"init_image": encode(b"GIF?")}, "init_image", "JPEG, PNG, WebP or GIF"),
        ({"init_image": ""}, "init_image", "needs init_image"),
        ({"mask_image": None}, "mask_image", "needs mask_image"),
        ({"init_image": 7}, "init_image", "string"),
        (
            {"operation": "ImageGeneration", "init_image": None, "mask_image": None},
            "operation",
            "PAWFECT_FLUX__CHECKPOINTS",
        ),
        ({"operation": "inpaint"}, "operation", "ImageInpaint"),
        ({"operation": None}, "operation", "ImageInpaint"),
        ({"steps": 0}, "steps", "greater than or equal to 1"),
        ({"steps": 10_000}, "steps", "less than or equal to 200"),
        ({"steps": "20"}, "steps", "integer"),
        ({"steps": True}, "steps", "integer"),
        ({"guidance_scale": 101}, "guidance_scale", "100"),
        ({"guidance_scale": float("nan")}, "guidance_scale", "finite"),
        ({"strength": 0}, "strength", "greater than 0"),
        ({"strength": 0.5}, "strength", "ImageTransform does"),
        ({"seed": -1}, "seed", "0"),
        ({"seed": 2**63}, "seed", "less than 9223372036854775808"),
        ({"width": 64, "height": 64}, "width", "keeps the image's size"),
        ({"width": 100, "height": 64}, "width", "multiple of 16"),
        ({"quality": "ultra"}, "quality", "auto, draft"),
        ({"quality": "high"}, "quality", "needs FLUX"),
        ({"model": "sdxl"}, "model", "offered here are draft"),
        ({"model": "flux-dev"}, "model", "is not installed"),
        ({"priority": "highest"}, "priority", "'urgent', 'normal' or 'low'"),
        ({"deadline_s": 0}, "deadline_s", "greater than 0"),
        ({"deadline_s": 7 * 86400 + 1}, "deadline_s", "604800"),
        ({"output_format": "gif"}, "output_format", "'jpeg', 'png' or 'webp'"),
        ({"prompt": ""}, "prompt", "at least 1 character"),
        ({"prompt": "x" * 2001}, "prompt", "2000"),
        ({"promt": "grass"}, "promt", "accepted are operation, model, prompt"),
    ],
)
async def test_what_is_wrong_is_said_and_named(tmp_path: Path, change: dict[str, Any], field: str, said: str) -> None:
    async with open_api(tmp_path, start=False) as api:
        body = json.dumps(inpaint(**change))  # as Python writes it, NaN included
        response = await api.http.post(JOBS, content=body, headers={"content-type": "application/json"})
        problem = expect_problem(response, 422, "invalid_request")
        assert problem["field"] == field
        assert said in problem["detail"]
        await expect_nothing_kept(api)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff", b'{"operation": "ImageInpaint", "prompt": "\\ud800"}']
)
async def test_what_is_no_json_object(tmp_path: Path, body: bytes) -> None:
    async with open_api(tmp_path, start=False) as api:
        response = await api.http.post(JOBS, content=body, headers={"content-type": "application/json; charset=utf-8"})
        expect_problem(response, 422, "invalid_request")


async def test_json_nested_deep_is_refused(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        body = b'{"prompt": ' + b"[" * 100_000
        response = await api.http.post(JOBS, content=body, headers={"content-type": "application/json"})
        expect_problem(response, 422, "invalid_request")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
async def test_other_types_are_refused_unread(tmp_path: Path, headers: dict[str, str]) -> None:
    was_read = False

    async def stream() -> AsyncIterator[bytes]:
        nonlocal was_read
        was_read = True
        yield b"{}"

    async with open_api(tmp_path, start=False) as api:
        response = await api.http.post(JOBS, content=stream(), headers=headers)
        expect_problem(response, 415, "unsupported_media_type")
        assert not was_read


# -- size and time -------------------------------------------------------------------------------------------------


async def test_a_body_over_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    sent = 0

    async def drip() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 2**16
            yield bytes(2**16)

    async with open_api(tmp_path, start=False, ingress=SMALL) as api:
        limit = limit_body(SMALL["photos"])
        for kind in ("application/json", "multipart/form-data; boundary=b"):
            headers = {"content-type": kind, "content-length": str(limit + 1)}
            problem = expect_problem(
                await api.http.post(JOBS, content=drip(), headers=headers), 413, "request_entity_too_large"
            )
            assert (sent, str(limit) in problem["detail"]) == (0, True)
        response = await api.http.post(JOBS, content=drip(), headers={"content-type": "application/json"})
        expect_problem(response, 413, "request_entity_too_large")
        assert limit < sent <= limit + 2**17


async def test_an_image_over_the_limit_is_refused_with_the_limit(tmp_path: Path) -> None:
    large = b"\xff\xd8\xff" + bytes(64 * 2**10)
    files = {**FILES, "init_image": ("photo.jpg", large, "image/jpeg")}
    async with open_api(tmp_path, start=False, ingress=SMALL) as api:
        for response in (
            await api.http.post(JOBS, json=inpaint(init_image=encode(large))),
            await api.http.post(JOBS, data={"operation": "ImageInpaint"}, files=files),
        ):
            problem = expect_problem(response, 413, "request_entity_too_large")
            assert problem["field"] == "init_image"
            assert problem["detail"] == f"init_image has {len(large)} bytes; at most {64 * 2**10} are accepted."


async def test_two_images_at_the_limit_fit_into_a_body(tmp_path: Path) -> None:
    largest = PHOTO + bytes(64 * 2**10 - len(PHOTO))
    async with open_api(tmp_path, start=False, ingress=SMALL) as api:
        body = inpaint(init_image=encode(largest), mask_image=encode(largest), prompt="ü" * 2000)
        assert (await api.http.post(JOBS, json=body)).status_code == 202


async def test_a_slow_body_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "BODY_TIMEOUT_S", 0.05)

    async def stall() -> AsyncIterator[bytes]:
        yield b"--b\r\n"
        await asyncio.Event().wait()

    async with open_api(tmp_path, start=False) as api:
        for kind in ("application/json", "multipart/form-data; boundary=b"):
            response = await api.http.post(JOBS, content=stall(), headers={"content-type": kind})
            problem = expect_problem(response, 408, "request_timeout")
            assert problem["detail"] == "The body did not come within 0.05 s."
            assert response.headers["connection"] == "close"


@pytest.mark.parametrize("kind", [b"application/json", b"multipart/form-data; boundary=b"])
async def test_a_caller_who_hangs_up_is_no_defect(kind: bytes) -> None:
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"--b\r\n", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    request = Request({"type": "http", "method": "POST", "headers": [(b"content-type", kind)]}, receive)
    with pytest.raises(InvalidRequest, match="connection ended"):
        await read_job(request, PhotoSettings())


# -- multipart -----------------------------------------------------------------------------------------------------


async def test_thousands_of_tiny_parts_are_refused_early(tmp_path: Path) -> None:
    sent = 0

    async def stream(filename: str | None) -> AsyncIterator[bytes]:
        nonlocal sent
        for number in range(5_000):
            sent += 1
            yield b"--b\r\n" + write_part(f"f{number}", b"x", filename) + b"\r\n"

    async with open_api(tmp_path, start=False) as api:
        headers = {"content-type": "multipart/form-data; boundary=b"}
        for filename, said in ((None, "Too many fields"), ("f", "Too many files")):
            sent = 0
            problem = expect_problem(
                await api.http.post(JOBS, content=stream(filename), headers=headers), 422, "invalid_request"
            )
            assert said in problem["detail"]
            assert sent < 50


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([write_part("operation", b"ImageInpaint")] * 2, "operation comes more than once"),
        (
            [write_part("init_image", PHOTO, "a"), write_part("init_image", PHOTO, "b")],
            "init_image comes more than once",
        ),
        ([write_part("prompt", b"x", "prompt.txt")], "prompt came as a file"),
        ([write_part("init_image", b"x")], "init_image came as text; send it as a file"),
        ([write_part("prompt", b"x" * (2**16 + 1))], "65536 bytes"),
        ([b"\r\nno disposition"], "Content-Disposition"),
        ([b"X-Long: " + b"x" * 2**16 + b"\r\n\r\nvalue"], "cannot be read"),
        ([write_part("operation", b"ImageInpaint"), write_part("steps", b"many")], "steps: Input should be"),
        ([write_part("operation", b"ImageInpaint"), write_part("promt", b"x")], "promt: Unknown field"),
        ([], "cannot be read"),
    ],
)
async def test_parts_that_cannot_be_used(tmp_path: Path, parts: list[bytes], said: str) -> None:
    async with open_api(tmp_path, start=False) as api:
        problem = expect_problem(
            await send_parts(api, parts, b"--b--\r\n" if parts else b"hello"), 422, "invalid_request"
        )
        assert said in problem["detail"]


async def test_a_multipart_body_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    parts = [
        write_part("operation", b"ImageInpaint"),
        write_part("init_image", PHOTO, "a"),
        write_part("mask_image", MASK, "b"),
        write_part("seed", b"7"),
    ]
    async with open_api(tmp_path, start=False) as api:
        problem = expect_problem(await send_parts(api, parts, b""), 422, "invalid_request")
        assert problem["detail"] == "The multipart body ends before its closing boundary."
        assert (await send_parts(api, parts)).json()["seed"] == 7


async def test_a_form_without_a_boundary_is_refused(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        for kind in ("multipart/form-data", "multipart/form-data; boundary=" + "b" * 300):
            response = await api.http.post(JOBS, content=b"--b--", headers={"content-type": kind})
            expect_problem(response, 422, "invalid_request")


async def test_a_file_input_left_empty_counts_as_left_out(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False, ingress={"flux": FluxSettings(checkpoints={"flux-dev": "hub"})}) as api:
        parts = [
            write_part("operation", b"ImageTransform"),
            write_part("prompt", b"a dog"),
            write_part("init_image", PHOTO, "a"),
            write_part("mask_image", b"", ""),
        ]
        assert (await send_parts(api, parts)).status_code == 202


async def test_files_do_not_touch_the_disk_on_their_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "read-only"))
    large = PHOTO + bytes(2 * 2**20)
    async with open_api(tmp_path, start=False) as api:
        files = {**FILES, "init_image": ("photo.jpg", large, "image/jpeg")}
        response = await api.http.post(JOBS, data={"operation": "ImageInpaint"}, files=files)
        assert response.status_code == 202, response.text
