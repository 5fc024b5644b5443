"""Where replicas find room, and what is left of a machine."""

from __future__ import annotations

import re
from typing import Any

import pytest

from manifests.builds import Build
from manifests.machines import MACHINES, POOLS, SYSTEM_BYTES, SYSTEM_CPUS, count_bytes, count_cpus
from manifests.pages import ROOT
from manifests.placement import can_run, count_bins, read_resources
from manifests.placement import count_cpus as count_ray_cpus
from manifests.pods import POOL_LABEL, RayGroup, list_pods, selects
from manifests.quantities import GIB, MIB, read_quantity


def _group(limits: dict[str, str], **params: str) -> RayGroup:
    template: Any = {"spec": {"containers": [{"name": "ray", "resources": {"limits": limits}}]}}
    return RayGroup("cpu", "spec", {"groupName": "cpu", "rayStartParams": params, "template": template})


@pytest.mark.parametrize(
    ("fractions", "gpus"),
    [
        ([], 0),
        ([0.75] * 4, 4),
        ([0.5] * 4, 2),
        ([0.25] * 5, 2),
        ([0.75, 0.25, 0.75, 0.25], 2),
        ([0.6, 0.4, 0.3], 2),
        ([2], 2),
    ],
)
def test_fractions_are_whole_on_one_gpu(fractions: list[float], gpus: int) -> None:
    assert count_bins(fractions) == gpus


@pytest.mark.parametrize(
    ("options", "fits"),
    [
        ({"num_cpus": 4}, True),
        ({"num_cpus": 4.5}, False),
        ({"num_cpus": 1, "num_gpus": 0.5}, False),
        ({"memory": 8 * GIB}, True),
        ({"memory": 8 * GIB + 1}, False),
        ({}, True),
    ],
)
def test_a_replica_has_room_or_not(options: dict[str, float], fits: bool) -> None:
    assert can_run(_group({"cpu": "4", "memory": "8Gi"}), {"name": "x", "ray_actor_options": options}) == fits


def test_a_replica_asks_for_a_cpu_where_it_says_nothing() -> None:
    assert not can_run(_group({"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": "1"}, **{"num-cpus": "0"}), {"name": "x"})


def test_cpus_are_told_as_kuberay_tells_them() -> None:
    assert count_ray_cpus(_group({"cpu": "3500m"})) == 4
    assert count_ray_cpus(_group({"cpu": "3500m"}, **{"num-cpus": "1"})) == 1


def test_resources_are_read_as_rays_autoscaler_reads_them() -> None:
    assert read_resources(_group({}, resources='"{\\"accelerator_type:L4\\": 1}"')) == {"accelerator_type:L4": 1}
    assert read_resources(_group({})) == {}
    for unreadable in ('{"a": 1}', '"{\\"a\\": 0.5}"', '"[]"'):
        with pytest.raises(ValueError, match=r"."):
            read_resources(_group({}, resources=unreadable))


@pytest.mark.parametrize(
    ("text", "amount"),
    [("2", 2), (1, 1), ("250m", 0.25), ("1Gi", GIB), ("512Mi", 512 * MIB), ("2G", 2e9), ("1.5", 1.5), ("500k", 5e5)],
)
def test_quantities(text: str | int, amount: float) -> None:
    assert read_quantity(text) == amount


def test_what_gke_leaves_of_a_machine() -> None:
    """GKE's page shows 3920m for 4 cores; memory: 25 % of 4 GiB, 20 % of 4, 10 % of 8, 6 % of the rest, and for image
    streaming 10, 8, 4 and 2.4 %."""
    machine = MACHINES["e2-standard-4"]
    assert count_cpus(machine) + SYSTEM_CPUS == pytest.approx(3.92)
    assert (count_bytes(machine) + SYSTEM_BYTES) / GIB == pytest.approx(16 - 1 - 0.8 - 0.8 - 1.04 - 100 / 1024)
    assert (count_bytes(MACHINES["g2-standard-8"]) + SYSTEM_BYTES) / GIB == pytest.approx(
        32 - 2.6 - 0.96 - 1.04 - 0.384 - 100 / 1024
    )


def test_the_pools_are_infras() -> None:
    variables = ROOT / "infra" / "variables.tf"
    machines = dict(re.findall(r"(\w+)_machine\s*=\s*optional\(string, \"([\w-]+)\"\)", variables.read_text()))
    assert {"l4-spot": machines["l4"], **machines} == POOLS


def test_pods_tolerate_what_keeps_others_off_their_pool(gke: Build) -> None:
    """The pools that infra/cluster.tf taints with their own name; tests/unit/infra holds that to the same two."""
    asked = {}
    for pods in list_pods(gke):
        own = {"key": POOL_LABEL, "operator": "Equal", "effect": "NoSchedule"}
        pool = pods.spec.get("nodeSelector", {}).get(POOL_LABEL)
        asked[pool] = {**own, "value": pool} in pods.spec.get("tolerations", [])
    assert {pool for pool, tolerated in asked.items() if tolerated} == {"cpu", "weights"}


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ({}, True),
        ({"matchLabels": {"a": "1"}}, True),
        ({"matchLabels": {"a": "2"}}, False),
        ({"matchLabels": {"a": "1", "c": "1"}}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, False),
        ({"matchExpressions": [{"key": "c", "operator": "NotIn", "values": ["1"]}]}, True),
        ({"matchExpressions": [{"key": "b", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}, False),
    ],
)
def test_selectors_choose_as_kubernetes_does(selector: dict[str, Any], chosen: bool) -> None:
    assert selects(selector, {"a": "1", "b": ""}) == chosen
