"""FLUX on the real service. The tiny checkpoint has the true architecture, so the whole way is met; its pictures are
noise. It runs on a CPU: that, and where the checkpoint lies, is all the configuration is told."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import yaml
from PIL import Image, ImageFilter

from bench.tiny_flux import write_checkpoint
from pawfect.client import Client
from pawfect.demo import SAMPLE
from pawfect.resources import provision
from pawfect.serve_plan import CONFIG
from pawfect.service_process import ServiceProcess, find_free_port
from pawfect.sessions import Backend, GoogleBackend
from serve_app.google_clients import make_clients
from serve_app.jobs.model import Session
from serve_app.settings import Settings
from serve_app.settings_sections import DEFAULT_QUALITIES
from tests.photos import make_mask, make_photo

pytestmark = pytest.mark.serve

PROJECT = "flux"
PATIENCE_S = 120.0


def make_environment(root: Path) -> dict[str, str]:
    folder = write_checkpoint(root / "checkpoint")
    return {
        "PAWFECT_FLUX__CHECKPOINTS": json.dumps({"flux-fill-dev": str(folder)}),
        "PAWFECT_FLUX__DEVICE": "cpu",
        "PAWFECT_FLUX__PROMPT_DIR": str(root / "prompts"),
        "PAWFECT_QUALITY": "low",
        "PAWFECT_JOBS__PROGRESS_INTERVAL_S": "0.05",
    }


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service's own, to be changed while it runs."""
    path = tmp_path_factory.mktemp("config") / "serve_config.yaml"
    path.write_text(CONFIG.read_text())
    return path


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory, config: Path) -> Iterator[ServiceProcess]:
    root = tmp_path_factory.mktemp("flux")
    environment = make_environment(root)
    with ServiceProcess(root / "data", root / "service.log", config=config, environment=environment) as process:
        asyncio.run(process.wait_ready())
        yield process


@pytest.fixture
async def client(flux: ServiceProcess) -> AsyncIterator[Client]:
    async with Client(flux.url) as client:
        yield client


@pytest.fixture
def backend(flux: ServiceProcess) -> Iterator[Backend]:
    backend = Backend(flux.data_dir)
    yield backend
    backend.close()


def open_pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(np.int64)


async def read_metrics(flux: ServiceProcess) -> str:
    async with httpx.AsyncClient(trust_env=False) as http:
        return (await http.get(f"http://127.0.0.1:{flux.metrics_port}/metrics")).text


@pytest.mark.parametrize("quality", [name for name, row in DEFAULT_QUALITIES.items() if row.engine == "flux"])
async def test_every_quality_goes_through_flux(client: Client, backend: Backend, quality: str) -> None:
    session = Session("flux", quality)
    original, mask = (SAMPLE / "original.jpg").read_bytes(), (SAMPLE / "mask_auto.png").read_bytes()
    await backend.create(session, original, mask)
    answer = await client.edit("flux", quality, quality=quality)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["job"]["quality"], answer.json()["job"]["attempts"]) == (quality, 1)
    before, after = open_pixels(original), open_pixels(await backend.download(session.edited_path))
    masked = np.asarray(Image.open(io.BytesIO(mask)).convert("L")) > 127
    near = Image.fromarray(masked).convert("L").filter(ImageFilter.MaxFilter(33))
    assert np.abs(after - before)[np.asarray(near) == 0].max() <= 24, "only the encoder may touch what is not masked"
    assert np.abs(after - before)[masked].mean() > 10, "under the mask there is something new"


async def test_a_seed_means_the_same_in_company(client: Client, backend: Backend) -> None:
    """Two sessions with the same photo and seed, beside each other, come out alike; another seed does not."""
    seeds = {"first": 7, "second": 7, "third": 8}
    for name in seeds:
        await backend.create(Session("seeds", name), make_photo(), make_mask())
    answers = await asyncio.gather(*(client.edit("seeds", name, seed=seed) for name, seed in seeds.items()))
    assert [answer.status_code for answer in answers] == [200] * 3
    first, second, third = [open_pixels(await backend.download(Session("seeds", name).edited_path)) for name in seeds]
    assert np.abs(first - second).max() <= 8, "rounding, seen through two JPEGs"
    assert np.abs(first - third).max() > 40


async def test_steps_are_seen_and_a_cancellation_stops_them(
    flux: ServiceProcess, client: Client, backend: Backend
) -> None:
    session = Session("flux", "cancelled")
    await backend.create(session, (SAMPLE / "original.jpg").read_bytes(), (SAMPLE / "mask_auto.png").read_bytes())
    edit = asyncio.create_task(client.edit("flux", "cancelled", quality="high", steps=200))
    seen: set[int] = set()
    eta = None
    async with asyncio.timeout(PATIENCE_S):
        while len(seen) < 3:
            progress = (await client.show("flux", "cancelled")).json()["progress"] or {}
            if progress.get("step"):
                assert (progress["stage"], progress["steps"]) == ("engine", 200)
                seen.add(progress["step"])
                eta = progress["eta_s"]
            await asyncio.sleep(0.05)
    assert eta is not None
    assert eta > 0
    assert (await client.cancel("flux", "cancelled")).status_code == 202
    assert (await edit).status_code == 409
    assert await backend.generation(session.edited_path) == ""
    async with asyncio.timeout(PATIENCE_S):
        while not re.search(r'pawfect_engine_requests\{[^}]*state="running"\} 0\.0', await read_metrics(flux)):
            await asyncio.sleep(1)


async def test_what_the_engine_does_is_measured(flux: ServiceProcess, client: Client, backend: Backend) -> None:
    await backend.create(Session("flux", "measured"), make_photo(), make_mask())
    assert (await client.edit("flux", "measured")).status_code == 200
    wanted = {
        r'pawfect_engine_tick_seconds_count\{[^}]*work="step"\}',
        r'pawfect_engine_tick_seconds_count\{[^}]*work="encode"\}',
        r'pawfect_engine_tick_seconds_count\{[^}]*work="decode"\}',
        r'pawfect_engine_batch_rows_bucket\{[^}]*le="4\.0"',
        r'pawfect_engine_requests\{[^}]*state="waiting"\}',
        r'pawfect_prompts_total\{[^}]*source="encoded"\} 1\.0',
        r'pawfect_prompts_total\{[^}]*source="memory"\}',
        r'pawfect_engine_ready\{[^}]*engine="flux"',
    }
    missing = wanted
    async with asyncio.timeout(PATIENCE_S):
        while missing:
            await asyncio.sleep(1)
            text = await read_metrics(flux)
            missing = {each for each in wanted if not re.search(each, text)}


async def test_a_prompt_too_long_is_said(client: Client, backend: Backend) -> None:
    await backend.create(Session("flux", "long"), make_photo(), make_mask())
    answer = await client.edit("flux", "long", prompt="no leash " * 100)
    assert answer.status_code == 422
    assert "tokens; at most 512 are accepted" in answer.json()["detail"]


def find_replicas(flux: ServiceProcess) -> set[int]:
    """Processes that run the model."""
    children = psutil.Process(flux.pid).children(recursive=True)
    return {each.pid for each in children if "ServeReplica:pawfect:FluxFill" in " ".join(each.cmdline())}


async def test_another_checkpoint_is_loaded_without_a_restart(
    flux: ServiceProcess, client: Client, backend: Backend, config: Path, tmp_path: Path
) -> None:
    """user_config in the file, SIGHUP to the service: the same replica answers the same seed with another picture, and
    no request fails meanwhile."""

    async def edit(name: str) -> np.ndarray:
        session = Session("checkpoint", name)
        await backend.create(session, make_photo(), make_mask())
        answer = await client.edit("checkpoint", name, seed=7)
        assert answer.status_code == 200, answer.text
        return open_pixels(await backend.download(session.edited_path))

    before = await edit("before")
    assert np.abs(await edit("again") - before).max() <= 8
    replicas = find_replicas(flux)
    other = await asyncio.to_thread(write_checkpoint, tmp_path / "other", seed=1)
    plan = yaml.safe_load(config.read_text())
    model = next(each for each in plan["applications"][0]["deployments"] if each["name"] == "FluxFill")
    model["user_config"] = {"checkpoint": str(other)}
    config.write_text(yaml.safe_dump(plan))
    os.kill(flux.pid, signal.SIGHUP)
    async with asyncio.timeout(PATIENCE_S):
        number = 0
        while np.abs(await edit(f"after-{number}") - before).max() <= 40:
            number += 1
    assert find_replicas(flux) == replicas != set()


@pytest.fixture(scope="module")
def google(emulators: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    root, port, settings = (
        tmp_path_factory.mktemp("google-flux"),
        find_free_port(),
        Settings(env="gcp", project_id=PROJECT),
    )

    async def prepare() -> None:
        clients = make_clients(settings)
        await asyncio.to_thread(provision, clients, settings.google, f"http://127.0.0.1:{port}/inpaint")
        await clients.close()

    asyncio.run(prepare())
    environment = {**emulators, **make_environment(root), "ENV": "gcp", "PROJECT_ID": PROJECT}
    with ServiceProcess(root / "data", root / "service.log", port=port, environment=environment) as process:
        asyncio.run(process.wait_ready())
        yield process


async def test_a_published_session_goes_through_flux(google: ServiceProcess) -> None:
    app = GoogleBackend(Settings(env="gcp", project_id=PROJECT))
    session = Session("user", f"flux-{uuid.uuid4().hex[:6]}")
    await app.create(session, make_photo(), make_mask(), {"petName": "Rocky"})
    await app.publish_session(session, quality="medium", steps=5)
    async with asyncio.timeout(PATIENCE_S):
        while (document := await app.read(session) or {}).get("processingStatus") not in ("completed", "failed"):
            await asyncio.sleep(0.2)
    assert (document["processingStatus"], document["errorMessage"], document["petName"]) == ("completed", None, "Rocky")
    assert Image.open(io.BytesIO(await app.download(document["editedImagePath"]))).size == (160, 120)
    clients = make_clients(Settings(env="gcp", project_id=PROJECT))
    job = (await clients.firestore.collection("jobs").document(document["jobId"]).get()).to_dict()
    assert (job["parameters"]["quality"], job["parameters"]["steps"], job["attempts"]) == ("medium", 5, 1)
    await clients.close()
    await app.close()
