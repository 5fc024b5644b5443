"""The service that the tests of jobs over HTTP share: the draft engine and both tiny FLUX models on a CPU, two ingress
replicas; and what they do with it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from PIL import Image

from pawfect.client import Client
from pawfect.serve_plan import CONFIG
from pawfect.service_process import ServiceProcess
from tests.photos import encode, make_mask, make_photo, make_pixels

PATIENCE_S = 90.0
MAX_IMAGE_BYTES = 2**20
"""Small, so that a body over the limit is soon made."""
NORMAL_SLOTS = 4
"""Of one Editor, for jobs that are not urgent: jobs.slots less jobs.urgent_slots."""
PHOTO = encode(Image.fromarray(make_pixels()), "PNG")
"""160 × 120, without loss: what leaves as PNG can be compared to the last bit."""
BRIEF = {"operation": "ImageInpaint", "key": "brief", "init_image": PHOTO, "mask_image": make_mask()}
"""A job whose time is over some 20 s after it came."""
LONG = {
    "operation": "ImageInpaint",
    "init_image": make_photo(1024, 1024),
    "mask_image": make_mask(1024, 1024, (0, 0, 1024, 1024)),
    "quality": "high",
    "steps": 200,
}
"""A minute and more of FLUX's work, in steps of a few tenths of a second."""


@dataclass(frozen=True)
class JobsService:
    process: ServiceProcess
    brief: str

    @property
    def images(self) -> Path:
        """The folder with a folder for each job's images."""
        return self.process.data_dir / "photos" / "jobs"


@contextmanager
def open_jobs_service(root: Path) -> Iterator[JobsService]:
    log, config = root / "service.log", write_config(root / "serve_config.yaml")
    with ServiceProcess(root / "data", log, config=config, environment=make_environment(root)) as process:
        asyncio.run(process.wait_ready())
        yield JobsService(process, asyncio.run(run_brief_job(process.url)))


def write_config(path: Path) -> Path:
    """As shipped, with two ingress replicas, and one replica of each model from the start."""
    plan = yaml.safe_load(CONFIG.read_text())
    for deployment in plan["applications"][0]["deployments"]:
        if deployment["name"] == "Ingress":
            deployment["num_replicas"] = 2
        if "autoscaling_config" in deployment:
            deployment["autoscaling_config"] = {"min_replicas": 1, "initial_replicas": 1, "max_replicas": 1}
    path.write_text(yaml.safe_dump(plan))
    return path


def make_environment(root: Path) -> dict[str, str]:
    from bench.tiny_flux import BASE_CHANNELS, write_checkpoint  # torch, seconds that most tests need not spend

    checkpoints = {
        "flux-fill-dev": str(write_checkpoint(root / "fill")),
        "flux-dev": str(write_checkpoint(root / "base", in_channels=BASE_CHANNELS)),
    }
    return {
        "PAWFECT_FLUX__CHECKPOINTS": json.dumps(checkpoints),
        "PAWFECT_FLUX__DEVICE": "cpu",
        "PAWFECT_FLUX__PROMPT_DIR": str(root / "prompts"),
        "PAWFECT_JOBS__PROGRESS_INTERVAL_S": "0.05",
        "PAWFECT_JOBS__RESULT_TTL_S": "1",
        "PAWFECT_PHOTOS__MAX_BYTES": str(MAX_IMAGE_BYTES),
        "RAY_metrics_report_interval_ms": "500",
    }


async def run_brief_job(url: str) -> str:
    async with Client(url) as client:
        view = await submit(client, **BRIEF, deadline_s=20)
        assert [event.name async for event in client.follow(view["job_id"])][-1] == "done"
        return str(view["job_id"])


async def submit(client: Client, operation: str = "ImageInpaint", **wish: Any) -> dict[str, Any]:
    response = await client.submit_job(operation, **wish)
    assert response.status_code == 202, response.text
    view: dict[str, Any] = response.json()
    return view


async def finish(client: Client, view: dict[str, Any]) -> dict[str, Any]:
    """The job once it has ended."""
    async with asyncio.timeout(PATIENCE_S):
        async for _ in client.follow(view["job_id"]):
            pass
    ended: dict[str, Any] = (await client.get_job(view["job_id"])).json()
    return ended


@asynccontextmanager
async def occupy(client: Client) -> AsyncIterator[list[str]]:
    """Long jobs of normal priority that take all there is for such, until they are cancelled at the end."""
    held = [(await submit(client, **LONG))["job_id"] for _ in range(NORMAL_SLOTS)]
    try:
        async with asyncio.timeout(PATIENCE_S):
            while await show_statuses(client, held) != ["processing"] * len(held):
                await asyncio.sleep(0.05)
        yield held
    finally:
        for job_id in held:
            await client.cancel_job(job_id)


async def show_statuses(client: Client, jobs: list[str]) -> list[str]:
    return [(await client.get_job(job_id)).json()["status"] for job_id in jobs]


async def count_running(service: JobsService) -> float:
    """Requests that the filling model has begun, as its own metric has it."""
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(f"http://127.0.0.1:{service.process.metrics_port}/metrics")).text
    values = re.findall(r'^ray_pawfect_engine_requests\{.*engine="flux",.*state="running".*\} (\S+)$', text, re.M)
    return float(values[0]) if values else 0.0


def find_ingresses(service: JobsService) -> list[psutil.Process]:
    """Ray names a replica's process by its deployment."""
    processes = psutil.Process(service.process.pid).children(recursive=True)
    return [each for each in processes if "ServeReplica:pawfect:Ingress" in _read_title(each)]


def _read_title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""
