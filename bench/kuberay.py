"""What KubeRay 1.7 makes of a rendered RayService: of each group a pod with its command, environment and probes.

Source: ray-operator/controllers/ray/common/pod.go of KubeRay, read and written anew in as much as these manifests need
it; what they use beyond that raises ValueError.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

GCS_PORT = 6379
DASHBOARD_PORT = 8265
AGENT_PORT = 52365
SERVE_PORT = 8000
METRICS_PORT = 8080
CLUSTER = "pawfect-c1"
"""KubeRay adds letters of its own to a RayService's name."""
HEAD_HOST = f"{CLUSTER}-head-svc.pawfect.svc.cluster.local"
LIVENESS = ("/api/healthz", AGENT_PORT)
"""Of every pod, and readiness of the head, since Ray 2.53: a GET by the kubelet, at the pod's address."""
_WGET = "wget --tries 1 -T {timeout} -q -O- http://localhost:{port}/{path} | grep success"
WORKER_READINESS = " && ".join(
    (
        _WGET.format(timeout=2, port=AGENT_PORT, path="api/local_raylet_healthz"),
        _WGET.format(timeout=10, port=SERVE_PORT, path="-/healthz"),
    )
)
WAIT_FOR_HEAD = f"ray health-check --address {HEAD_HOST}:{GCS_PORT}"
"""What a worker's init container repeats until it succeeds; that has the container's env, and not its envFrom."""

Secrets = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Pod:
    """`command` is what bash is given with -c; `mounts` are path → kind of volume, or its name for a secret."""

    group: str
    command: str
    environment: dict[str, str]
    mounts: dict[str, str]
    user: int
    grace_s: float
    read_only: bool
    init_environment: dict[str, str] = field(default_factory=dict)


class Manifests:
    def __init__(self, documents: list[dict[str, Any]], secrets: Secrets) -> None:
        self._documents, self._secrets = documents, secrets
        self.service = next(each for each in documents if each["kind"] == "RayService")["spec"]
        self._cluster = self.service["rayClusterConfig"]

    def read_serve_config(self) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load(self.service["serveConfigV2"])
        return found

    def make_head(self, name: str) -> Pod:
        spec = self._cluster["headGroupSpec"]
        redis = self._cluster["gcsFaultToleranceOptions"]
        environment = {
            "RAY_external_storage_namespace": CLUSTER,
            "RAY_REDIS_ADDRESS": redis["redisAddress"],
            "REDIS_PASSWORD": self._read_value(redis["redisPassword"]),
            "RAY_enable_autoscaler_v2": "true",
            "RAY_ADDRESS": f"127.0.0.1:{GCS_PORT}",
        }
        start = {"no-monitor": "true", "redis-password": "$REDIS_PASSWORD"}
        pod = self._make(name, "headgroup", spec, environment, {**start, **spec["rayStartParams"]}, "ray start --head")
        pod.mounts.setdefault("/tmp/ray", "emptyDir")  # noqa: S108 - the autoscaler's container reads logs there
        return pod

    def make_worker(self, name: str, group: str) -> Pod:
        spec = next(each for each in self._cluster["workerGroupSpecs"] if each["groupName"] == group)
        environment = {
            "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
            "FQ_RAY_IP": HEAD_HOST,
            "RAY_IP": HEAD_HOST.partition(".")[0],
            "RAY_ADDRESS": f"{HEAD_HOST}:{GCS_PORT}",
        }
        start = {"address": f"{HEAD_HOST}:{GCS_PORT}", **spec["rayStartParams"]}
        return self._make(name, group, spec, environment, start, "ray start")

    def _make(
        self,
        name: str,
        group: str,
        spec: Mapping[str, Any],
        environment: Mapping[str, str],
        start: Mapping[str, str],
        command: str,
    ) -> Pod:
        template = spec["template"]["spec"]
        container = template["containers"][0]
        own = {each["name"]: self._read_value(each) for each in container.get("env", [])}
        tokens = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self._secrets[CLUSTER]["auth_token"]}
        if self._cluster["authOptions"] != {"mode": "token"}:
            raise ValueError("authOptions")
        limits = container["resources"]["limits"]
        words = f"{command} {_format_start(_add_limits(start, limits))}"
        made = {
            "RAY_CLUSTER_NAME": CLUSTER,
            "RAY_CLOUD_INSTANCE_ID": name,
            "RAY_NODE_TYPE_NAME": group,
            "KUBERAY_GEN_RAY_START_CMD": words,
            "RAY_PORT": str(GCS_PORT),
            "RAY_timeout_ms_task_wait_for_death_info": "0",
            "RAY_gcs_server_request_timeout_seconds": "5",
            "RAY_SERVE_KV_TIMEOUT_S": "5",
            "RAY_USAGE_STATS_KUBERAY_IN_USE": "1",
            "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE": "1",
        }
        return Pod(
            group=group,
            command=f"ulimit -n ${{RAY_START_ULIMIT_OPEN_FILES:-65536}}; {words}",
            environment={**self._read_sources(container), **made, **environment, **tokens, **own},
            mounts=_read_mounts(template, container),
            user=template["securityContext"]["runAsUser"],
            grace_s=template["terminationGracePeriodSeconds"],
            read_only=container["securityContext"]["readOnlyRootFilesystem"],
            init_environment=own | tokens,
        )

    def _read_sources(self, container: Mapping[str, Any]) -> dict[str, str]:
        names = [each["configMapRef"]["name"] for each in container["envFrom"]]
        maps = {each["metadata"]["name"]: each["data"] for each in self._documents if each["kind"] == "ConfigMap"}
        return {key: value for name in names for key, value in maps[name].items()}

    def _read_value(self, entry: Mapping[str, Any]) -> str:
        if "value" in entry:
            return str(entry["value"])
        reference = entry["valueFrom"]["secretKeyRef"]
        return self._secrets[reference["name"]][reference["key"]]


def render(overlay: Path, secrets: Secrets) -> Manifests:
    """Raises CalledProcessError when Kustomize does not take the overlay."""
    done = subprocess.run(["kubectl", "kustomize", str(overlay)], check=True, capture_output=True, text=True)
    return Manifests([each for each in yaml.safe_load_all(done.stdout) if each], secrets)


def _add_limits(start: Mapping[str, str], limits: Mapping[str, str]) -> dict[str, str]:
    made: dict[str, str] = {
        "num-cpus": limits["cpu"],
        "memory": str(_count_bytes(limits["memory"])),
        "block": "true",
        "dashboard-agent-listen-port": str(AGENT_PORT),
    }
    if gpus := limits.get("nvidia.com/gpu"):
        made["num-gpus"] = gpus
    return {**made, **start}


def _count_bytes(quantity: str) -> int:
    number, unit = quantity[:-2], quantity[-2:]
    return int(number) * {"Gi": 2**30, "Mi": 2**20}[unit]


def _format_start(start: Mapping[str, str]) -> str:
    return "  ".join(f"--{name}" if value == "true" else f"--{name}={value}" for name, value in sorted(start.items()))


def _read_mounts(template: Mapping[str, Any], container: Mapping[str, Any]) -> dict[str, str]:
    volumes = {}
    for each in template["volumes"]:
        kind = next(key for key in each if key != "name")
        volumes[each["name"]] = each["secret"]["secretName"] if kind == "secret" else kind
    mounts = {each["mountPath"]: volumes[each["name"]] for each in container["volumeMounts"]}
    return {**mounts, "/dev/shm": "emptyDir"}  # noqa: S108 - in the pod
