"""The cluster of pods, and what KubeRay, the kubelet and a gateway do with it; see `cluster`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import httpx

from bench.kuberay import DASHBOARD_PORT, HEAD_HOST, LIVENESS, METRICS_PORT, WORKER_READINESS, Manifests, Pod
from bench.pods import PodNetwork


class Cluster:
    """The pods, and what KubeRay and a gateway would do with them."""

    def __init__(
        self,
        network: PodNetwork,
        manifests: Manifests,
        changes: Mapping[str, str],
        token: str,
        http: httpx.AsyncClient,
        head_address: str | None,
    ) -> None:
        self._network, self._manifests, self._changes = network, manifests, changes
        self._head_address = head_address
        self._token, self.http = token, http
        self.pods: dict[str, Pod] = {}

    def add(self, name: str, group: str) -> None:
        head = group == "headgroup"
        address = self._network.add_address(name)
        pod = self._manifests.make_head(name) if head else self._manifests.make_worker(name, group)
        if head:
            if self._head_address is not None:
                self._network.lend_address(name, self._head_address)
            self._network.services[HEAD_HOST] = self._head_address or address
        self._network.start(name, pod, self._changes)
        self.pods[name] = pod

    def address(self, name: str) -> str:
        return self._network.addresses[name]

    def end(self, name: str) -> float:
        return self._network.terminate(name, self.pods.pop(name).grace_s)

    def kill(self, name: str) -> None:
        self.pods.pop(name)
        self._network.kill(name)

    def execute(self, name: str, command: str, environment: Mapping[str, str], timeout_s: float) -> bool:
        words = {"PATH": f"{sys.prefix}/bin:/usr/bin:/bin", "HOME": "/cache", "PYTHONPATH": "/app", **environment}
        try:
            self._network.execute(name, command, words, self.pods[name].user, timeout_s)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            print(f"{name}: {command}: {str(error.stderr)[-500:]}", file=sys.stderr)
            return False
        return True

    async def check_health(self) -> list[str]:
        """Pods that KubeRay's probes find dead, and those with replicas that they find not ready. Serve has proxies on
        the head and where replicas are, so a pod without any is never ready, and the gateway sends nothing there."""
        working = set((await self.list_replicas()).values())
        failed = []
        for name in self.pods:
            alive = await self.get(f"http://{self.address(name)}:{LIVENESS[1]}{LIVENESS[0]}")
            ready = name not in working or await self.is_ready(name)
            if alive is None or not ready:
                failed.append(name)
        return failed

    async def is_ready(self, name: str) -> bool:
        return await asyncio.to_thread(self.execute, name, WORKER_READINESS, self.pods[name].environment, 15)

    async def check_metrics(self) -> list[str]:
        found = {name: await self.get(f"http://{self.address(name)}:{METRICS_PORT}/metrics") for name in self.pods}
        return [name for name, text in found.items() if text is None or "ray_" not in text]

    async def get(self, url: str, timeout_s: float = 5) -> str | None:
        """None for anything but 200."""
        try:
            answer = await self.http.get(url, timeout=timeout_s)
        except httpx.TransportError:
            return None
        return answer.text if answer.status_code == 200 else None

    async def apply(self, config: Mapping[str, Any]) -> None:
        """As the operator does, at the head's dashboard."""
        url = f"http://{self.address('head')}:{DASHBOARD_PORT}/api/serve/applications/"
        (await self.http.put(url, json=config, headers=self._header(), timeout=30)).raise_for_status()

    async def look(self) -> dict[str, Any]:
        """The application as Serve tells of it; empty while nobody answers."""
        url = f"http://{self.address('head')}:{DASHBOARD_PORT}/api/serve/applications/"
        try:
            answer = await self.http.get(url, headers=self._header(), timeout=30)
            found: dict[str, Any] = answer.json()["applications"].get("pawfect", {})
        except (httpx.TransportError, ValueError, KeyError):
            return {}
        return found

    async def list_replicas(self, deployment: str | None = None) -> dict[str, str]:
        """Running replicas: id → name of the pod."""
        pods = {self.address(name): name for name in self.pods}
        return {
            replica["replica_id"]: pods.get(replica["node_ip"], replica["node_ip"])
            for name, each in (await self.look()).get("deployments", {}).items()
            for replica in each["replicas"]
            if deployment in (None, name) and replica["state"] == "RUNNING"
        }

    def _header(self) -> dict[str, str]:
        return {"x-ray-authorization": f"Bearer {self._token}"}
