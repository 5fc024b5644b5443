"""Jobs over HTTP on the real service: every operation, cancelling, priority, what is refused, and what is forgotten."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageFilter

from pawfect.client import Client
from pawfect.resources import provision
from pawfect.service_process import ServiceProcess
from serve_app.google_clients import make_clients
from serve_app.settings import Settings
from tests.acceptance.jobs_service import (
    BRIEF,
    LONG,
    MAX_IMAGE_BYTES,
    PATIENCE_S,
    PHOTO,
    JobsService,
    count_running,
    finish,
    occupy,
    show_statuses,
    submit,
)
from tests.photos import make_mask, make_photo

pytestmark = pytest.mark.serve

PROJECT = "api-keys"
MASK = make_mask()
INPAINT = {"operation": "ImageInpaint", "init_image": PHOTO, "mask_image": MASK}
GENERATE = {"operation": "ImageGeneration", "prompt": "a dog", "width": 96, "height": 64, "steps": 3}
TRANSFORM = {"operation": "ImageTransform", "prompt": "a dog in autumn", "init_image": make_photo(384, 288), "steps": 4}


def open_image(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def open_pixels(data: bytes) -> np.ndarray:
    return np.asarray(open_image(data).convert("RGB")).astype(np.int64)


async def wait_for_steps(client: Client, job_id: str) -> None:
    async with asyncio.timeout(PATIENCE_S), aclosing(client.follow(job_id)) as events:
        async for event in events:
            if event.data["step"]:
                return
    raise AssertionError("the job ended before")


# -- every operation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_form", [False, True], ids=["json", "form"])
@pytest.mark.parametrize(
    ("wish", "model", "size"),
    [
        ({**INPAINT, "output_format": "jpeg"}, "draft", (160, 120)),
        ({**INPAINT, "output_format": "webp", "model": "flux-fill-dev", "quality": "low"}, "flux-fill-dev", (160, 120)),
        ({**GENERATE, "output_format": "webp"}, "flux-dev", (96, 64)),
        ({**GENERATE, "output_format": "jpeg", "negative_prompt": "a cat", "true_cfg": 2}, "flux-dev", (96, 64)),
        ({**TRANSFORM, "output_format": "png"}, "flux-dev", (384, 288)),
        ({**TRANSFORM, "output_format": "jpeg", "width": 128, "height": 64, "strength": 1}, "flux-dev", (128, 64)),
    ],
)
async def test_every_operation_gives_an_image(
    caller: Client, wish: dict[str, Any], model: str, size: tuple[int, int], as_form: bool
) -> None:
    view = await submit(caller, **wish, seed=7, as_form=as_form)
    assert (view["operation"], view["model"], view["seed"]) == (wish["operation"], model, 7)
    job = await finish(caller, view)
    assert (job["status"], job["error"], job["attempts"]) == ("completed", None, 1)
    result = await caller.fetch_result(view["job_id"])
    assert (result.status_code, result.headers["content-type"]) == (200, f"image/{wish['output_format']}")
    image = open_image(result.content)
    assert (image.format, image.mode, image.size) == (wish["output_format"].upper(), "RGB", size)
    assert np.asarray(image).std() > 1, "one flat colour is no picture"
    as_json = (await caller.fetch_result(view["job_id"], accept="application/json")).json()
    assert (as_json["job_id"], as_json["content_type"]) == (view["job_id"], result.headers["content-type"])
    assert base64.b64decode(as_json["image"], validate=True) == result.content


@pytest.mark.parametrize("quality", ["draft", "low", "medium", "high"])
async def test_only_what_is_masked_is_painted(caller: Client, quality: str) -> None:
    view = await submit(caller, **INPAINT, quality=quality, output_format="png", steps=3)
    assert (await finish(caller, view))["status"] == "completed"
    before, after = open_pixels(PHOTO), open_pixels((await caller.fetch_result(view["job_id"])).content)
    masked = np.asarray(open_image(MASK)) > 127
    near = np.asarray(Image.fromarray(masked).convert("L").filter(ImageFilter.MaxFilter(5))) > 0
    assert np.array_equal(after[~near], before[~near])
    assert np.abs(after - before)[masked].mean() > 10, "under the mask there is something new"


async def test_the_same_seed_and_wish_give_the_same_image(caller: Client) -> None:
    seeds = (7, 7, 8)
    views = [await submit(caller, **GENERATE, seed=seed, output_format="png") for seed in seeds]
    await asyncio.gather(*(finish(caller, view) for view in views))
    first, second, third = [open_pixels((await caller.fetch_result(view["job_id"])).content) for view in views]
    assert np.abs(first - second).max() <= 1, "those beside it change its last bit at most"
    assert np.abs(first - third).max() > 40


# -- once per key --------------------------------------------------------------------------------------------------


async def test_a_key_stands_for_one_job(caller: Client) -> None:
    answers = await asyncio.gather(*(caller.submit_job(**INPAINT, seed=1, key="once") for _ in range(8)))
    assert {answer.status_code for answer in answers} <= {200, 202}
    [job_id] = {answer.json()["job_id"] for answer in answers}
    job = await finish(caller, answers[0].json())
    assert (job["status"], job["attempts"]) == ("completed", 1)
    image = (await caller.fetch_result(job_id)).content
    again = await caller.submit_job(**INPAINT, seed=1, key="once", as_form=True)
    assert (again.status_code, again.json()) == (200, job)
    assert (await caller.fetch_result(job_id)).content == image
    other = await caller.submit_job(**INPAINT, seed=2, key="once")
    assert (other.status_code, other.json()["type"]) == (409, "urn:pawfect:problem:conflict")
    assert (await caller.submit_job(**INPAINT, seed=1, key="twice")).json()["job_id"] != job_id


# -- cancelling and priority ---------------------------------------------------------------------------------------


async def test_a_queued_job_is_cancelled_at_once(jobs_service: JobsService, caller: Client) -> None:
    async with occupy(caller):
        view = await submit(caller, **INPAINT)
        answer = await caller.cancel_job(view["job_id"])
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
        assert (await caller.cancel_job(view["job_id"])).status_code == 409
    job = await finish(caller, view)
    assert (job["status"], job["attempts"], job["error"]["code"]) == ("cancelled", 0, "cancelled")
    result = await caller.fetch_result(view["job_id"])
    assert (result.status_code, result.json()["job_status"]) == (409, "cancelled")


async def test_a_running_job_is_stopped_within_a_step(jobs_service: JobsService, caller: Client) -> None:
    view = await submit(caller, **LONG)
    await wait_for_steps(caller, view["job_id"])
    async with asyncio.timeout(PATIENCE_S):
        while not await count_running(jobs_service):
            await asyncio.sleep(0.2)
        answer = await caller.cancel_job(view["job_id"])
        assert (answer.status_code, answer.json()["cancel_requested"]) == (202, True)
        job = await finish(caller, view)
        assert (job["status"], job["cancel_requested"]) == ("cancelled", False)
        while await count_running(jobs_service):
            await asyncio.sleep(0.2)
    assert (await caller.fetch_result(view["job_id"])).status_code == 409
    assert not (jobs_service.images / view["job_id"] / "result").exists()


async def test_an_urgent_job_overtakes(caller: Client) -> None:
    async with occupy(caller) as held:
        waiting = await submit(caller, **INPAINT, quality="low")
        urgent = await submit(caller, **INPAINT, quality="low", priority="urgent")
        assert (await finish(caller, urgent))["status"] == "completed"
        assert await show_statuses(caller, [*held, waiting["job_id"]]) == ["processing"] * len(held) + ["queued"]
        assert (await caller.cancel_job(waiting["job_id"])).status_code == 200


# -- what is there -------------------------------------------------------------------------------------------------


async def test_jobs_are_listed_page_by_page_newest_first(caller: Client) -> None:
    made = [(await submit(caller, **GENERATE))["job_id"] for _ in range(5)]
    seen: list[str] = []
    query: dict[str, str | int] = {"limit": 2}
    while not set(made) <= set(seen):
        page = (await caller.list_jobs(**query)).json()
        assert 0 < len(page["jobs"]) <= 2
        seen += [job["job_id"] for job in page["jobs"]]
        query["cursor"] = page["next_cursor"]
    assert seen[:5] == made[::-1]
    await asyncio.gather(*(finish(caller, {"job_id": job_id}) for job_id in made))
    completed = (await caller.list_jobs(limit=5, status="completed")).json()["jobs"]
    assert [job["job_id"] for job in completed] == made[::-1]


# -- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"model": "sdxl"}, "model", "offered here are draft, flux-fill-dev, flux-dev"),
        ({"model": "flux-dev"}, "model", "does not do ImageInpaint; draft, flux-fill-dev does"),
        ({"init_image": "not base64!"}, "init_image", "RFC 4648"),
        ({"init_image": b"hello"}, "init_image", "JPEG, PNG, WebP or GIF"),
        ({"steps": 0}, "steps", "greater than or equal to 1"),
        ({"steps": 10_000}, "steps", "less than or equal to 200"),
        ({"promt": "grass"}, "promt", "accepted are operation, model, prompt"),
    ],
)
async def test_what_is_wrong_is_said_and_named(caller: Client, change: dict[str, Any], field: str, said: str) -> None:
    answer = await caller.submit_job(**{**INPAINT, **change})
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert answer.json()["field"] == field
    assert said in answer.json()["detail"]


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"init_image": make_photo()[:2000]}, "photo_unreadable", "is cut off or damaged"),
        ({"mask_image": make_mask(160, 40, (0, 0, 20, 20))}, "mask_unreadable", "160 × 40 pixels but the photo is"),
        ({"mask_image": make_mask(box=None)}, "mask_empty", "nothing to remove"),
    ],
    ids=["cut off", "another shape", "nothing masked"],
)
async def test_a_job_that_cannot_be_done_fails_with_a_sentence(
    caller: Client, change: dict[str, Any], code: str, said: str
) -> None:
    job = await finish(caller, await submit(caller, **{**INPAINT, **change}))
    assert (job["status"], job["error"]["code"], job["attempts"]) == ("failed", code, 1)
    assert said in job["error"]["message"]
    result = await caller.fetch_result(job["job_id"])
    assert (result.status_code, result.json()["job_error"]) == (409, code)


async def test_an_image_over_the_limit_is_refused(caller: Client) -> None:
    for as_form in (False, True):
        answer = await caller.submit_job(**{**INPAINT, "init_image": PHOTO + bytes(MAX_IMAGE_BYTES)}, as_form=as_form)
        assert (answer.status_code, answer.json()["field"]) == (413, "init_image")


async def test_a_body_over_the_limit_is_refused_before_it_comes(jobs_service: JobsService) -> None:
    head = "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", jobs_service.process.port)
    writer.write(f"{head}Content-Length: 1000000000\r\n\r\n{{".encode())
    async with asyncio.timeout(PATIENCE_S):
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    writer.close()
    await writer.wait_closed()


async def test_a_body_that_does_not_end_is_refused_at_the_limit(jobs_service: JobsService) -> None:
    async def pour() -> Any:
        for _ in range(10 * MAX_IMAGE_BYTES // 2**16):
            yield b" " * 2**16

    async with httpx.AsyncClient(base_url=jobs_service.process.url, trust_env=False, timeout=PATIENCE_S) as http:
        answer = await http.post("/v1/jobs", content=pour(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["type"]) == (413, "urn:pawfect:problem:request_entity_too_large")


async def test_thousands_of_tiny_parts_are_refused(jobs_service: JobsService) -> None:
    parts = {f"field{number}": (None, "x") for number in range(5_000)}
    async with httpx.AsyncClient(base_url=jobs_service.process.url, trust_env=False, timeout=PATIENCE_S) as http:
        answer = await http.post("/v1/jobs", files=parts)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:pawfect:problem:invalid_request")
    assert "Too many fields" in answer.json()["detail"]


# -- in the cloud, with keys ---------------------------------------------------------------------------------------


def make_key(*arguments: str) -> tuple[str, dict[str, Any]]:
    """A key and its row, made as its owner does."""
    command = [sys.executable, "-m", "pawfect.keys", *arguments]
    key, row = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return key, json.loads(row)


@pytest.fixture(scope="module")
def keys() -> Mapping[str, tuple[str, dict[str, Any]]]:
    return {"backend": make_key("backend"), "batch": make_key("batch", "--concurrent-jobs", "1")}


@pytest.fixture(scope="module")
def google(
    emulators: Mapping[str, str],
    keys: Mapping[str, tuple[str, dict[str, Any]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ServiceProcess]:
    root: Path = tmp_path_factory.mktemp("keys")
    settings = Settings(env="gcp", project_id=PROJECT)
    (root / "keys.json").write_text(json.dumps([row for _, row in keys.values()]))

    async def prepare() -> None:
        clients = make_clients(settings)
        await asyncio.to_thread(provision, clients, settings.google, "http://127.0.0.1:1/unused")
        await clients.close()

    asyncio.run(prepare())
    environment = {
        **emulators,
        "ENV": "gcp",
        "PROJECT_ID": PROJECT,
        "PAWFECT_CALLERS__KEYS_FILE": str(root / "keys.json"),
    }
    with ServiceProcess(root / "data", root / "service.log", environment=environment) as process:
        asyncio.run(process.wait_ready())
        yield process


async def test_a_job_of_one_key_is_no_business_of_another(
    google: ServiceProcess, keys: Mapping[str, tuple[str, dict[str, Any]]]
) -> None:
    async with Client(google.url, keys["backend"][0]) as backend, Client(google.url, keys["batch"][0]) as batch:
        view = await submit(backend, **INPAINT, key="first", output_format="png")
        events = [event async for event in backend.follow(view["job_id"])]
        assert events[-1].name == "done"
        ids = [event.id for event in events]
        assert ids == sorted(set(ids))
        before, after = open_pixels(PHOTO), open_pixels((await backend.fetch_result(view["job_id"])).content)
        assert after.shape == before.shape
        assert np.abs(after - before).max() > 10
        assert (await backend.submit_job(**INPAINT, key="first", output_format="png")).status_code == 200
        assert [job["job_id"] for job in (await backend.list_jobs()).json()["jobs"]] == [view["job_id"]]
        assert (await batch.list_jobs()).json() == {"jobs": [], "next_cursor": None}
        for answer in (
            await batch.get_job(view["job_id"]),
            await batch.fetch_result(view["job_id"]),
            await batch.cancel_job(view["job_id"]),
        ):
            assert (answer.status_code, answer.json()["type"]) == (404, "urn:pawfect:problem:not_found")
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            await anext(batch.follow(view["job_id"]))


async def test_a_key_has_only_so_many_jobs_at_a_time(
    google: ServiceProcess, keys: Mapping[str, tuple[str, dict[str, Any]]]
) -> None:
    async with Client(google.url, keys["batch"][0]) as batch:
        answers = await asyncio.gather(*(batch.submit_job(**INPAINT) for _ in range(2)))
        taken, refused = sorted(answers, key=lambda answer: answer.status_code)
        assert (taken.status_code, refused.status_code) == (202, 429)
        assert refused.json()["type"] == "urn:pawfect:problem:too_many_requests"
        assert int(refused.headers["retry-after"]) >= 1
        await finish(batch, taken.json())
        assert (await batch.submit_job(**INPAINT)).status_code == 202


@pytest.mark.parametrize("key", [None, "pk_" + "x" * 43, "nonsense"], ids=["none", "unknown", "no key"])
async def test_nobody_is_served_without_a_key(google: ServiceProcess, key: str | None) -> None:
    async with Client(google.url, key) as stranger:
        for answer in (
            await stranger.submit_job(**INPAINT),
            await stranger.get_job("job-1"),
            await stranger.list_jobs(),
            await stranger.fetch_result("job-1"),
            await stranger.cancel_job("job-1"),
        ):
            assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
            assert answer.headers["www-authenticate"] == "Bearer"
        with pytest.raises(httpx.HTTPStatusError, match="401"):
            await anext(stranger.follow("job-1"))


# -- the end -------------------------------------------------------------------------------------------------------


async def test_a_job_whose_time_is_over_is_forgotten_with_its_images(jobs_service: JobsService, caller: Client) -> None:
    """It came when the service started, and is looked for once a minute: hence at the end of this module."""
    async with asyncio.timeout(PATIENCE_S):
        while (await caller.get_job(jobs_service.brief)).status_code != 404:
            assert (await caller.fetch_result(jobs_service.brief)).status_code in (200, 404, 410)
            await asyncio.sleep(0.5)
    assert (await caller.fetch_result(jobs_service.brief)).status_code == 404
    assert not (jobs_service.images / jobs_service.brief / "result").exists()
    anew = await caller.submit_job(**{**BRIEF, "seed": 5})
    assert (anew.status_code, anew.json()["job_id"]) == (202, jobs_service.brief)
    assert (await finish(caller, anew.json()))["status"] == "completed"
