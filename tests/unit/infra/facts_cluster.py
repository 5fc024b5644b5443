"""Cluster, gateway and alerts are what the manifests stand on."""

from __future__ import annotations

import json
import re

from infra_check.examples import PROJECT
from infra_check.plan import Plan
from tests.unit.infra.planned import ROOT, read_environment

ENVIRONMENT = [
    *("PROJECT_ID", "REGION", "HOSTNAME", "IMAGE", "SERVE_ACCOUNT", "WEIGHTS_ACCOUNT", "PUSH_ACCOUNT"),
    *("PHOTOS_BUCKET", "WEIGHTS_BUCKET", "HEADSHOT_ORIGINALS_BUCKET", "HEADSHOT_OUTPUTS_BUCKET"),
    *("PUSH_AUDIENCE", "STATIC_ADDRESS", "CERTIFICATE_MAP", "ALLOWED_CALLERS"),
]
"""The keys of k8s/overlays/gke-l4/project.env."""

ALLOCATABLE = {
    "e2-standard-4": (3.92, 13.3),
    "e2-standard-8": (7.91, 28.3),
    "g2-standard-8": (7.91, 28.3),
    "e2-highmem-8": (7.91, 58.3),
}
"""CPUs and GiB that GKE leaves to pods, by its formula
(https://cloud.google.com/kubernetes-engine/docs/concepts/plan-node-sizes)."""
PODS = {
    "system": (2.25 + 0.1 + 0.1, 6.5 + 0.5 + 0.5),
    "cpu": (6.25, 24.25),
    "l4": (6.25, 24.25),
    "l4-spot": (6.25, 24.25),
    "weights": (4.25, 48.25),
}
"""What pods of k8s/base ask for, with GCS FUSE's sidecar; system: a head with its autoscaler, Redis, the operator."""


def check_environment(plan: Plan) -> None:
    told = read_environment(plan)
    assert list(told) == ENVIRONMENT
    assert all(told.values())
    assert told["PUSH_AUDIENCE"] == f"https://{told['HOSTNAME']}/"
    assert f"pawfect-deploy@{PROJECT}.iam.gserviceaccount.com" in json.loads(told["ALLOWED_CALLERS"])
    assert told["IMAGE"] == f"{told['REGION']}-docker.pkg.dev/{PROJECT}/pawfect/pawfect"
    for path in (ROOT / "k8s").rglob("project.env"):
        assert [line.split("=")[0] for line in path.read_text().splitlines() if "=" in line] == ENVIRONMENT


def check_gateway(plan: Plan) -> None:
    told = read_environment(plan)
    assert plan.resources["google_compute_global_address.this"]["name"] == told["STATIC_ADDRESS"]
    entry = plan.resources["google_certificate_manager_certificate_map_entry.this"]
    assert (entry["map"], entry["hostname"]) == (told["CERTIFICATE_MAP"], told["HOSTNAME"])


def check_node_pools(plan: Plan) -> None:
    """Each pool that a manifest asks for is there, and bears its label."""
    pools = {values["name"]: values["node_config"][0] for values in plan.of_type("google_container_node_pool").values()}
    assert set(pools) == {"system", "cpu", "l4", "l4-spot", "weights"}
    for name, config in pools.items():
        assert config["labels"] == {"pawfect.dev/pool": name}
        assert config["gcfs_config"] == [{"enabled": True}]
        assert config["workload_metadata_config"] == [{"mode": "GKE_METADATA"}]
    asked = set()
    for path in (ROOT / "k8s").rglob("*.yaml"):
        asked |= set(re.findall(r"pawfect\.dev/pool: ([\w-]+)", path.read_text()))
    assert asked <= set(pools)


def own(pool: str) -> tuple[str, str, str]:
    """The taint that keeps everything but our pods off a pool."""
    return ("pawfect.dev/pool", pool, "NO_SCHEDULE")


def check_l4_pools(plan: Plan) -> None:
    pools = {values["name"]: values for values in plan.of_type("google_container_node_pool").values()}
    gpu, spot = ("nvidia.com/gpu", "present", "NO_SCHEDULE"), ("cloud.google.com/gke-spot", "true", "NO_SCHEDULE")
    for name, taints in {
        "l4": [gpu],
        "l4-spot": [gpu, spot],
        "cpu": [own("cpu")],
        "system": [],
        "weights": [own("weights")],
    }.items():
        config = pools[name]["node_config"][0]
        assert [(taint["key"], taint["value"], taint["effect"]) for taint in config["taint"]] == taints
        assert bool(config["guest_accelerator"]) == (gpu in taints) == config["machine_type"].startswith("g2-")
        assert bool(config["spot"]) == (spot in taints)
        assert pools[name]["autoscaling"][0]["total_min_node_count"] == (1 if name == "system" else 0)


def check_machines(plan: Plan) -> None:
    """A pod of each pool fits on a node of it, beside what GKE itself runs there (some 0.7 CPUs and 1 GiB)."""
    for values in plan.of_type("google_container_node_pool").values():
        cpus, memory_gib = ALLOCATABLE[values["node_config"][0]["machine_type"]]
        wanted_cpus, wanted_gib = PODS[values["name"]]
        assert wanted_cpus + 0.7 <= cpus
        assert wanted_gib + 1 <= memory_gib


def check_cluster(plan: Plan) -> None:
    """What the manifests stand on: NetworkPolicy, Workload Identity, Gateway, GCS FUSE, managed Prometheus."""
    cluster = plan.resources["google_container_cluster.this"]
    assert cluster["datapath_provider"] == "ADVANCED_DATAPATH"
    assert cluster["workload_identity_config"] == [{"workload_pool": f"{PROJECT}.svc.id.goog"}]
    assert cluster["gateway_api_config"] == [{"channel": "CHANNEL_STANDARD"}]
    assert cluster["addons_config"][0]["gcs_fuse_csi_driver_config"] == [{"enabled": True}]
    assert cluster["addons_config"][0]["ray_operator_config"][0]["enabled"] is False
    assert cluster["monitoring_config"][0]["managed_prometheus"][0]["enabled"] is True
    assert cluster["private_cluster_config"][0]["enable_private_nodes"] is True
    assert cluster["deletion_protection"] is True


def check_runbooks(plan: Plan) -> None:
    """Each alert says where it is written what to do."""
    sections = set(re.findall(r"^### (\w+)$", (ROOT / "docs/runbooks.md").read_text(), re.M))
    policies = plan.of_type("google_monitoring_alert_policy")
    assert len(policies) >= 4
    for values in policies.values():
        assert sections & set(re.findall(r"Pawfect\w+", values["documentation"][0]["content"]))


def check_services(plan: Plan) -> None:
    """The API of everything that is made is enabled first, and those that only the code calls."""
    apis = {
        "artifact": "artifactregistry",
        "billing": "billingbudgets",
        "certificate": "certificatemanager",
        "compute": "compute",
        "container": "container",
        "dns": "dns",
        "firestore": "firestore",
        "iam": "iam",
        "monitoring": "monitoring",
        "project": "cloudresourcemanager",
        "pubsub": "pubsub",
        "secret": "secretmanager",
        "service": "iam",
        "storage": "storage",
    }
    enabled = {values["service"] for values in plan.of_type("google_project_service").values()}
    used = {apis[address.split("_")[1]] for address in plan.resources}
    assert {f"{api}.googleapis.com" for api in used | {"iamcredentials", "containerfilesystem", "sts"}} <= enabled
