"""The main job over HTTP on the real service: what a subscription and an internal caller see."""

from __future__ import annotations

import asyncio
import io
import socket
import subprocess
import sys
import uuid

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image, ImageFilter
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from pawfect.client import Client
from pawfect.demo import SAMPLE
from pawfect.sessions import Backend
from serve_app.jobs.model import Session
from tests.acceptance.edits.conftest import Running
from tests.photos import make_mask, make_photo

pytestmark = pytest.mark.serve


def ids(session: Session) -> dict[str, str]:
    return {"userId": session.user_id, "sessionId": session.session_id}


def name_message() -> str:
    return f"m-{uuid.uuid4().hex}"


def open_pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(np.float64)


async def test_the_leash_is_gone_and_nothing_else_changed(client: Client, backend: Backend, session: Session) -> None:
    original, mask = (SAMPLE / "original.jpg").read_bytes(), (SAMPLE / "mask_auto.png").read_bytes()
    await backend.create(session, original, mask, {"petName": "Rocky"})
    assert await client.push(name_message(), ids(session)) == 204
    document = await backend.read(session)
    assert document is not None
    assert (document["processingStatus"], document["petName"]) == ("completed", "Rocky")
    before, after = open_pixels(original), open_pixels(await backend.download(document["editedImagePath"]))
    truth = open_pixels((SAMPLE / "ground_truth.jpg").read_bytes())
    masked = np.asarray(Image.open(io.BytesIO(mask)).convert("L")) > 127
    near = Image.fromarray(masked).convert("L").filter(ImageFilter.MaxFilter(33))
    kept = np.asarray(near) == 0
    assert np.abs(after - before)[kept].max() <= 24, "only the JPEG encoder may touch what the mask leaves out"
    assert np.abs(after - before)[kept].mean() < 1
    error_before = np.sqrt(((before - truth)[masked] ** 2).mean())
    error_after = np.sqrt(((after - truth)[masked] ** 2).mean())
    assert error_after < error_before / 2, "under the mask it is now the photo as it was without the leash"
    red = (after[..., 0] - after[..., 1:].max(axis=2))[masked]
    assert (red > 60).mean() < 0.001, "no strap is left"
    preview = Image.open(io.BytesIO(await backend.download(document["previewImagePath"])))
    assert (preview.format, max(preview.size)) == ("JPEG", 512)


async def test_two_pushes_of_one_message_at_once_are_one_edit(
    client: Client, backend: Backend, session: Session
) -> None:
    await backend.create(session, make_photo(), make_mask())
    message = name_message()
    assert await asyncio.gather(client.push(message, ids(session)), client.push(message, ids(session))) == [204, 204]
    view = (await client.show(session.user_id, session.session_id)).json()
    assert (view["job"]["status"], view["job"]["attempts"]) == ("completed", 1)
    generation = await backend.generation(session.edited_path)
    assert await client.push(message, ids(session)) == 204
    assert await backend.generation(session.edited_path) == generation


async def test_progress_is_seen_while_the_engine_works(client: Client, backend: Backend, session: Session) -> None:
    original, mask = (SAMPLE / "original.jpg").read_bytes(), (SAMPLE / "mask_auto.png").read_bytes()
    await backend.create(session, original, mask)
    push = asyncio.create_task(client.push(name_message(), ids(session)))
    stages = set()
    while not push.done():
        view = (await client.show(session.user_id, session.session_id)).json()
        if view["progress"]:
            stages.add(view["progress"]["stage"])
        await asyncio.sleep(0.05)
    assert await push == 204
    assert "engine" in stages


async def test_a_dropped_push_does_not_stop_the_edit(
    service: Running, client: Client, backend: Backend, session: Session
) -> None:
    original, mask = (SAMPLE / "original.jpg").read_bytes(), (SAMPLE / "mask_auto.png").read_bytes()
    await backend.create(session, original, mask)
    push = asyncio.create_task(client.push(name_message(), ids(session)))
    async with asyncio.timeout(30):
        while (await client.show(session.user_id, session.session_id)).json()["processingStatus"] != "processing":
            await asyncio.sleep(0.05)
        push.cancel()
        while (view := (await client.show(session.user_id, session.session_id)).json())["job"]["status"] != "completed":
            await asyncio.sleep(0.1)
    assert view["job"]["attempts"] == 1


async def test_cancel_reaches_a_running_edit(client: Client, backend: Backend, session: Session) -> None:
    # Seconds of work for the engine; a cancellation is seen within a tenth of one here.
    original, mask = (SAMPLE / "original.jpg").read_bytes(), (SAMPLE / "mask_auto.png").read_bytes()
    await backend.create(session, original, mask)
    edit = asyncio.create_task(client.edit(session.user_id, session.session_id))
    async with asyncio.timeout(30):
        while ((await client.show(session.user_id, session.session_id)).json()["progress"] or {}).get("steps") != 1:
            await asyncio.sleep(0.02)
    answer = await client.cancel(session.user_id, session.session_id)
    response = await edit
    assert (answer.status_code, response.status_code) == (202, 409)
    assert response.json()["detail"] == "The edit was cancelled."
    assert await backend.generation(session.edited_path) == ""


async def test_the_direct_route_does_the_same_job(client: Client, backend: Backend, session: Session) -> None:
    await backend.create(session, make_photo(), make_mask())
    assert await client.push(name_message(), ids(session)) == 204
    generation = await backend.generation(session.edited_path)
    response = await client.edit(session.user_id, session.session_id)
    assert (response.status_code, response.json()["job"]["attempts"]) == (200, 1)
    assert await backend.generation(session.edited_path) == generation
    refused = await client.edit(session.user_id, session.session_id, quality="high")
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:pawfect:problem:quality_unavailable")


async def test_what_is_no_envelope_is_refused(service: Running) -> None:
    async with httpx.AsyncClient(base_url=service.process.url, trust_env=False) as http:
        response = await http.post("/inpaint", content=b"hello")
    assert (response.status_code, response.headers["content-type"]) == (400, "application/problem+json")


EDIT = {"quality": "draft", "engine": "draft"}
DONE = {**EDIT, "outcome": "completed", "source": "session"}
COUNTED: tuple[tuple[str, dict[str, str]], ...] = (
    ("pawfect_jobs_total", {**DONE, "fault": "none"}),
    *(
        ("pawfect_stage_seconds_count", {**EDIT, "stage": stage})
        for stage in ("queue", "download", "decode", "plan", "engine", "composite", "encode", "upload")
    ),
    ("pawfect_end_to_end_seconds_bucket", {**DONE, "start": "warm", "le": "60.0"}),
    ("pawfect_edits_total", {"promise": "kept", "start": "warm"}),
    ("pawfect_store_reachable", {}),
    ("pawfect_stage_seconds_bucket", {"le": "0.01"}),
    ("pawfect_stage_seconds_bucket", {"le": "600.0"}),
    ("pawfect_engine_load_seconds", {"engine": "draft"}),
    ("pawfect_engine_loads_total", {"engine": "draft", "outcome": "loaded"}),
    ("pawfect_attempts_total", {"result": "completed"}),
    ("pawfect_pushes_total", {"status": "204"}),
    ("pawfect_dead_letters_total", {"reason": "invalid_message"}),
    ("pawfect_engine_seconds_total", {"engine": "draft"}),
    ("pawfect_gpu_hour_usd", {}),
)
"""What one edit and one message of no use leave behind."""
SHOWN: tuple[tuple[str, dict[str, str]], ...] = (
    ("pawfect_jobs_queued", {}),
    ("pawfect_jobs_running", {}),
    ("pawfect_oldest_queued_seconds", {}),
    ("pawfect_engine_ready", {"engine": "headshots"}),
    ("pawfect_engine_load_failed", {"engine": "draft"}),
)
"""What may be 0 at the moment."""
DECLARED: tuple[tuple[str, dict[str, str]], ...] = (
    ("pawfect_jobs_total", {**EDIT, "outcome": "failed", "source": "http", "fault": "service"}),
    ("pawfect_attempts_total", {"result": "crashed"}),
    ("pawfect_dead_letters_total", {"reason": "crashed"}),
    ("pawfect_pushes_total", {"status": "503"}),
    ("pawfect_engine_loads_total", {"engine": "draft", "outcome": "failed"}),
    ("pawfect_engine_loads_total", {"engine": "headshots", "outcome": "failed"}),
    ("pawfect_out_of_memory_total", {"engine": "draft"}),
    ("pawfect_gpu_held_seconds_total", {"engine": "draft"}),
    ("pawfect_gpu_seconds_total", {"engine": "draft"}),
    ("pawfect_cost_usd_total", EDIT),
    ("pawfect_edits_total", {"promise": "broken", "start": "cold"}),
)
"""What is there at zero although it has not happened, on a CPU."""


async def read_samples(service: Running) -> list[Sample]:
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(f"http://127.0.0.1:{service.process.metrics_port}/metrics")).text
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def find(samples: list[Sample], name: str, labels: dict[str, str]) -> list[float]:
    """The values of all series with these labels, whatever others they have."""
    return [
        sample.value
        for sample in samples
        if sample.name == f"ray_{name}" and labels.items() <= {**sample.labels}.items()
    ]


async def test_metrics_are_exported(service: Running, client: Client, backend: Backend, session: Session) -> None:
    await backend.create(session, make_photo(), make_mask())
    assert await client.push(name_message(), ids(session)) == 204
    assert await client.push(name_message(), {"userId": "nobody"}) == 204
    missing = [*COUNTED, *SHOWN]
    async with asyncio.timeout(60):
        while missing:
            await asyncio.sleep(1)
            samples = await read_samples(service)
            missing = [each for each in COUNTED if not any(value > 0 for value in find(samples, *each))]
            missing += [each for each in SHOWN if not find(samples, *each)]
    for each in DECLARED:
        assert set(find(samples, *each)) == {0.0}, each


async def test_the_service_answers_this_machine_only(service: Running) -> None:
    others = [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family is socket.AF_INET and not address.address.startswith("127.")
    ]
    for address in others:
        with pytest.raises(OSError), socket.create_connection((address, service.process.port), timeout=2):  # noqa: PT011
            pass
    with socket.create_connection(("127.0.0.1", service.process.port), timeout=2):
        pass


_INTRUDER = """
import os, sys
for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
    os.environ.pop(name, None)
os.environ["RAY_AUTH_MODE"] = "disabled"
import ray
ray.init(address=sys.argv[1], log_to_driver=False)
print("let in")
"""


def test_nobody_without_the_token_runs_code_on_its_ray(service: Running) -> None:
    """Ray's own ports listen on every interface."""
    gcs = next(
        argument.partition("=")[2]
        for process in psutil.Process(service.process.pid).children(recursive=True)
        for argument in process.cmdline()
        if argument.startswith("--gcs-address=")
    )
    intruder = subprocess.run(
        [sys.executable, "-c", _INTRUDER, gcs], capture_output=True, text=True, timeout=120, check=False
    )
    assert "let in" not in intruder.stdout
    assert intruder.returncode != 0
