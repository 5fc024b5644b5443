"""The service on L4s that are not there: Ray counts them, and the tiny FLUX runs on the CPU in their place.

The application is deployed as in production, from a configuration derived from serve_config.yaml; only what is named
here differs. What a picture costs is chosen by its size and its steps, so that one replica is soon busy.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.completions import Completions
from bench.offered_load import Load
from bench.photos import detailed_photo, whole_mask
from bench.ray_cluster import LOOPBACK, RayCluster
from pawfect.client import Client
from pawfect.serve_plan import CONFIG
from pawfect.service_process import find_free_port
from pawfect.sessions import Backend

FLUX = "FluxFill"
GPUS = 2
SHARE = 0.5
"""Of a GPU, for one replica: two of them fit on each."""
FITTING = int(GPUS / SHARE)
ASKED = 8
"""max_replicas: more than fit."""
SIDE = 512  # pixels
STEPS = 30
"""With SIDE, some 2.5 s of one core."""
WISH: Mapping[str, Any] = {"quality": "high", "steps": STEPS}
CPUS = 32
"""Ray counts these, too."""
RULES: dict[str, dict[str, Any]] = {
    FLUX: {"target_wait_s": 15, "down_after_s": 10, "zero_after_s": 15},
    "Editor": {"down_after_s": 10},
    "PromptEncoder": {"zero_after_s": 15},
}
"""Over those of serve_config.yaml, for a run of minutes instead of an hour."""


@dataclass(frozen=True, slots=True)
class FakeL4s:
    cluster: RayCluster
    client: Client
    store: Completions
    load: Load
    data: Path
    plan: dict[str, Any]


def derive_plan(port: int) -> dict[str, Any]:
    """serve_config.yaml on another port, with fractions of L4s that are there."""
    plan: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    plan["http_options"] |= {"host": LOOPBACK, "port": port}
    flux = find_deployment(plan, FLUX)
    flux["ray_actor_options"] |= {"num_gpus": SHARE}
    flux["autoscaling_config"] |= {"max_replicas": ASKED}
    return plan


def find_deployment(plan: Mapping[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in plan["applications"][0]["deployments"] if each["name"] == name)
    return found


def hasten(plan: Mapping[str, Any]) -> None:
    rules = plan["applications"][0]["autoscaling_policy"]["policy_kwargs"]["deployments"]
    for name, hasty in RULES.items():
        rules[name] |= hasty


def fix_replicas(plan: Mapping[str, Any], name: str, replicas: int) -> None:
    deployment = find_deployment(plan, name)
    if (
        "autoscaling_config" in deployment
    ):  # it stays: the scaling policy hears of the work from autoscaled Editors only
        deployment["autoscaling_config"] |= {"min_replicas": replicas, "max_replicas": replicas}
        deployment["autoscaling_config"].pop("initial_replicas", None)
    else:
        deployment["num_replicas"] = replicas


def make_environment(folder: Path) -> dict[str, str]:
    """Settings of a service with the tiny FLUX below `folder`, whose callers nobody holds back."""
    checkpoint = folder / "checkpoint"
    subprocess.run([sys.executable, "-m", "bench.tiny_flux", str(checkpoint)], check=True, stdout=subprocess.DEVNULL)
    return {
        "PAWFECT_DATA_DIR": str(folder / "data"),
        "PAWFECT_FLUX__CHECKPOINTS": json.dumps({"flux-fill-dev": str(checkpoint)}),
        "PAWFECT_FLUX__DEVICE": "cpu",
        "PAWFECT_FLUX__PROMPT_DIR": str(folder / "prompts"),
        "PAWFECT_CALLERS__REQUESTS_PER_MINUTE": "100000",
        "PAWFECT_CALLERS__CONCURRENT_JOBS": "10000",
        "RAY_metrics_report_interval_ms": "1000",
    }


@asynccontextmanager
async def open_fake_l4s(
    folder: Path, change: Callable[[dict[str, Any]], None], wish: Mapping[str, Any] = WISH
) -> AsyncIterator[FakeL4s]:
    """`change` is made to the plan before it is deployed; `wish` is what jobs ask for."""
    port, environment = find_free_port(), make_environment(folder)
    data = Path(environment["PAWFECT_DATA_DIR"])
    plan = derive_plan(port)
    change(plan)
    backend = Backend(data)
    try:
        async with RayCluster(folder, environment) as cluster, Client(f"http://{LOOPBACK}:{port}") as client:
            await cluster.start_node("head", cpus=CPUS, gpus=GPUS)
            await cluster.deploy(plan)
            load = Load(client, backend, detailed_photo(SIDE, SIDE), whole_mask(SIDE, SIDE), wish)
            try:
                yield FakeL4s(cluster, client, Completions(data / "pawfect.db"), load, data, plan)
            finally:
                await load.close()
    finally:
        backend.close()
