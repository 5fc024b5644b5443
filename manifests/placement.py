"""Where Ray can place a deployment's replicas: what one asks for, and what a group's node has."""

from __future__ import annotations

import json
from typing import Any

from manifests.pods import RayGroup
from manifests.quantities import read_quantity

Deployment = dict[str, Any]


def ask(deployment: Deployment, name: str) -> float:
    """`num_cpus` (Serve's default is 1), `num_gpus` or `memory` (bytes) of one replica."""
    return float((deployment.get("ray_actor_options") or {}).get(name, 1 if name == "num_cpus" else 0))


def count_most(deployment: Deployment) -> int:
    """Replicas at the most."""
    scaling = deployment.get("autoscaling_config") or {}
    return int(scaling.get("max_replicas") or deployment.get("num_replicas") or 1)


def can_run(group: RayGroup, deployment: Deployment) -> bool:
    """Whether one replica has room on an empty node of the group; without need of a GPU it may be beside one."""
    return (
        ask(deployment, "num_cpus") <= count_cpus(group)
        and ask(deployment, "num_gpus") <= group.has_gpu
        and ask(deployment, "memory") <= count_bytes(group)
    )


def count_cpus(group: RayGroup) -> float:
    """As KubeRay tells Ray: num-cpus, or else the limit (or the request) of the container, rounded up."""
    return float(group.params.get("num-cpus", -(-_read_limit(group, "cpu") // 1)))


def count_bytes(group: RayGroup) -> float:
    return float(group.params.get("memory", _read_limit(group, "memory")))


def _read_limit(group: RayGroup, name: str) -> float:
    resources = group.container.get("resources") or {}
    return read_quantity((resources.get("limits") or {}).get(name, (resources.get("requests") or {}).get(name, 0)))


def read_resources(group: RayGroup) -> dict[str, Any]:
    """The group's own resources, read as Ray's autoscaler does (_private/kuberay/autoscaling_config.py): JSON with its
    quotes escaped, in quotes. Raises ValueError."""
    if group.spec.get("resources"):
        return dict(group.spec["resources"])
    resources = json.loads(group.params.get("resources", '"{}"')[1:-1].replace("\\", ""))
    if not (isinstance(resources, dict) and all(isinstance(value, int) for value in resources.values())):
        raise ValueError("it is no mapping of names to whole numbers")
    return resources


def count_bins(fractions: list[float]) -> int:
    """GPUs that hold these fractions, first fit, largest first; a number above 1 takes whole ones."""
    free: list[float] = []
    for share in sorted(fractions, reverse=True):
        if share > 1:
            free.extend([0.0] * round(share))
            continue
        place = next((number for number, left in enumerate(free) if left >= share - 1e-9), None)
        if place is None:
            free.append(1 - share)
        else:
            free[place] -= share
    return len(free)
