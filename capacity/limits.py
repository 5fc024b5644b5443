"""What the deployed files allow, read from them, so that a change there needs none here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
SERVE_CONFIG = Path("k8s/overlays/gke-l4/serve_config.patch.yaml")
"""As `python -m manifests` merges it."""
RAY_SERVICE = Path("k8s/base/rayservice.yaml")


@dataclass(frozen=True, slots=True)
class Limits:
    """Most replicas of FluxFill, each on an L4 of its own, and of Editor; most pods of group cpu; replicas of Ingress,
    and requests that each of them holds."""

    l4s: int
    editors: int
    cpu_pods: int
    ingresses: int
    held: int


def read_limits(root: Path = ROOT) -> Limits:
    """Raises OSError for a file that is not there, KeyError for one without these numbers."""
    config = yaml.safe_load(_read(root / SERVE_CONFIG)["spec"]["serveConfigV2"])
    deployments = {each["name"]: each for each in config["applications"][0]["deployments"]}
    cluster = _read(root / RAY_SERVICE)["spec"]["rayClusterConfig"]
    pods = {group["groupName"]: group["maxReplicas"] for group in cluster["workerGroupSpecs"]}
    return Limits(
        l4s=deployments["FluxFill"]["autoscaling_config"]["max_replicas"],
        editors=deployments["Editor"]["autoscaling_config"]["max_replicas"],
        cpu_pods=pods["cpu"],
        ingresses=deployments["Ingress"]["num_replicas"],
        held=deployments["Ingress"]["max_ongoing_requests"],
    )


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


LIMITS = read_limits()
