"""A Ray cluster of this machine, as KubeRay makes one: `ray start --block` per node, the application by Serve's
declarative deploy through the dashboard's REST API. GPUs may be claimed that are not there: Ray only counts them.

Every node listens on loopback with ports of its own, and all processes want the cluster's token.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

from pawfect.ray_environment import RAY_VARIABLES
from pawfect.service_process import ServiceDied, find_free_port

LOOPBACK = "127.0.0.1"
START_S = 60.0
"""From the start of a node to its first answer, on a slow machine."""
ANSWER_S = 30.0
"""Of the dashboard, which shares two cores with everything else."""
DEPLOY_S = 180.0
STOP_S = 20.0
"""From SIGTERM to SIGKILL, for a node that nobody drains."""
OBJECT_STORE_BYTES = 256 * 2**20
DRAIN_VARIABLE = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
APPLICATION = "pawfect"


@dataclass(frozen=True, slots=True)
class Node:
    """`id` is Ray's, `process` its `ray start --block`."""

    id: str
    process: subprocess.Popen[bytes]


@dataclass(frozen=True, slots=True)
class Replica:
    """As Serve tells of it; `pid` and `node` are None before it has a place."""

    id: str
    deployment: str
    state: str
    pid: int | None
    node: str | None


@dataclass(frozen=True, slots=True)
class Deployment:
    status: str
    wanted: int
    replicas: tuple[Replica, ...]

    def count(self, *states: str) -> int:
        return sum(replica.state in states for replica in self.replicas)


class RayCluster:
    """`environment` is that of every process of it, the replicas' too: their settings. Logs lie in `folder`."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.metrics_port = find_free_port()
        self._port, self._dashboard_port = find_free_port(), find_free_port()
        self._folder = folder
        # Sockets lie below it, and their names may have 107 bytes.
        self._temporary = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        token = secrets.token_hex(32)
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token,
            "RAY_TMPDIR": self._temporary.name,  # the address of the newest cluster is noted here, not for the others
            **RAY_VARIABLES,
            **environment,
        }
        self._http = httpx.AsyncClient(
            base_url=f"http://{LOOPBACK}:{self._dashboard_port}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=ANSWER_S,
            trust_env=False,
        )
        self._processes: list[subprocess.Popen[bytes]] = []

    async def start_node(self, name: str, *, cpus: float, gpus: int = 0, drain_s: float = 0) -> Node:
        """The first one is the head. On SIGTERM a node is drained for at most `drain_s` seconds. Raises ServiceDied."""
        known = await self._list_nodes()
        process = self._launch(name, cpus, gpus, drain_s)
        give_up_at = time.monotonic() + START_S
        while not (new := await self._list_nodes() - known):
            if process.poll() is not None or time.monotonic() > give_up_at:
                raise ServiceDied(f"The node {name} did not start.\n{(self._folder / f'{name}.log').read_text()}")
            await asyncio.sleep(0.5)
        return Node(new.pop(), process)

    def _launch(self, name: str, cpus: float, gpus: int, drain_s: float) -> subprocess.Popen[bytes]:
        join = [f"--address={LOOPBACK}:{self._port}", f"--metrics-export-port={find_free_port()}"]
        head = [
            "--head",
            f"--port={self._port}",
            "--include-dashboard=true",
            f"--dashboard-port={self._dashboard_port}",
            f"--ray-client-server-port={find_free_port()}",
            f"--temp-dir={self._temporary.name}",
            f"--metrics-export-port={self.metrics_port}",
        ]
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--node-ip-address={LOOPBACK}"),
            *(join if self._processes else head),
            f"--num-cpus={cpus:g}",
            f"--num-gpus={gpus}",
            f"--resources={json.dumps({'accelerator_type:L4': gpus} if gpus else {})}",
            f"--dashboard-agent-listen-port={find_free_port()}",
            f"--object-store-memory={OBJECT_STORE_BYTES}",
            *("--min-worker-port=0", "--max-worker-port=0"),  # any free ones: others may run Ray here, too
        ]
        environment = {**self.environment, DRAIN_VARIABLE: f"{drain_s:g}"}
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        self._processes.append(process)
        return process

    async def _list_nodes(self) -> set[str]:
        try:
            answer = await self._http.get("/nodes", params={"view": "summary"})
            nodes = [node["raylet"] for node in answer.json()["data"]["summary"]]
        except (httpx.TransportError, ValueError, KeyError):  # not up yet
            return set()
        return {node["nodeId"] for node in nodes if node.get("state") == "ALIVE"}

    async def deploy(self, plan: Mapping[str, Any], *, wait: bool = True) -> None:
        """As `serve deploy` and KubeRay do. Raises ServiceDied when the application does not come to run."""
        answer = await self._http.put("/api/serve/applications/", json=plan)
        answer.raise_for_status()
        give_up_at = time.monotonic() + DEPLOY_S
        while wait:
            await asyncio.sleep(0.5)
            application = (await self._look())["applications"].get(APPLICATION, {})
            if application.get("status") == "RUNNING":
                return
            if application.get("status") == "DEPLOY_FAILED" or time.monotonic() > give_up_at:
                raise ServiceDied(f"The application is {application.get('status')}: {application.get('message')}")

    async def read_status(self) -> dict[str, Deployment]:
        """The deployments by name, with their replicas."""
        found = (await self._look())["applications"].get(APPLICATION, {}).get("deployments", {})
        return {name: _read_deployment(name, each) for name, each in found.items()}

    async def read_gpus(self) -> dict[str, dict[str, float]]:
        """Replica → GPU → share of it, as Ray's scheduler has given them; seconds old."""
        answer = await self._http.get("/logical/actors")
        shares = {}
        for actor in answer.json()["data"]["actors"].values():
            slots = actor.get("usedResources", {}).get("GPU", {}).get("resourceSlots", [])
            if slots and actor["state"] == "ALIVE" and str(actor["name"]).startswith("SERVE_REPLICA::"):
                replica = str(actor["name"]).rpartition("#")[2]
                node = actor["address"]["nodeId"][:6]
                shares[replica] = {f"{node}:{slot['slot']}": float(slot["allocation"]) for slot in slots}
        return shares

    async def read_metrics(self) -> str:
        """What Prometheus would scrape from the head."""
        return (await self._http.get(f"http://{LOOPBACK}:{self.metrics_port}/metrics")).text

    async def _look(self) -> dict[str, Any]:
        answer = await self._http.get("/api/serve/applications/")
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()
        await asyncio.to_thread(self.stop)

    def stop(self) -> None:
        """Ends every process of the cluster, and only those."""
        tree = [each for process in self._processes for each in list_tree(process.pid)]
        for process in reversed(self._processes):  # the head last
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
        for each in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(tree, timeout=STOP_S)
        self._temporary.cleanup()


def list_tree(pid: int) -> list[psutil.Process]:
    """A process and everything it started; none when it has ended."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _read_deployment(name: str, found: Mapping[str, Any]) -> Deployment:
    replicas = tuple(
        Replica(each["replica_id"], name, each["state"], each.get("pid"), each.get("node_id"))
        for each in found["replicas"]
    )
    return Deployment(found["status"], found["target_num_replicas"], replicas)
