"""L4s: one whole one to a pod, which Ray shares out in fractions."""

from __future__ import annotations

from manifests.builds import Build
from manifests.placement import ask, can_run, count_bins, count_cpus, count_most, read_resources
from manifests.pods import GPU, SPOT_LABEL, Pods, list_groups, list_pods
from manifests.problems import Problems, report
from manifests.serve_rules import read_deployments

ACCELERATOR_LABEL = "cloud.google.com/gke-accelerator"
ACCELERATOR = "nvidia-l4"


def check_whole(build: Build) -> Problems:
    for pods in list_pods(build):
        for path, container in pods.list_containers():
            resources = container.get("resources") or {}
            given = [(resources.get(kind) or {}).get(GPU) for kind in ("requests", "limits")]
            if given != [None, None] and [str(each) for each in given] != ["1", "1"]:
                sentence = f"{GPU} is {given[0]} in requests and {given[1]} in limits; it is 1 in both, or in neither."
                yield report(pods.document, f"{path}.resources", sentence)


def check_nodes(build: Build) -> Problems:
    for pods in list_pods(build):
        selector = pods.spec.get("nodeSelector") or {}
        asks = any(GPU in (each.get("resources") or {}).get("limits", {}) for _, each in pods.list_containers())
        if asks and selector.get(ACCELERATOR_LABEL) != ACCELERATOR:
            path = f"{pods.path}.spec.nodeSelector"
            yield report(pods.document, path, f"{ACCELERATOR_LABEL} is not {ACCELERATOR}: any GPU would do.")
        taints = [(GPU, "present")] * asks + [(SPOT_LABEL, "true")] * pods.is_spot
        for key, value in taints:
            if not _tolerates(pods, key, value):
                path = f"{pods.path}.spec.tolerations"
                yield report(pods.document, path, f"{key}={value}:NoSchedule, the nodes' taint, is not tolerated.")


def _tolerates(pods: Pods, key: str, value: str) -> bool:
    for each in pods.spec.get("tolerations") or []:
        exists = each.get("operator") == "Exists" and each.get("key") in (key, None)
        equal = each.get("operator", "Equal") == "Equal" and (each.get("key"), each.get("value")) == (key, value)
        if (exists or equal) and each.get("effect") in ("NoSchedule", None):
            return True
    return False


def check_wake(build: Build) -> Problems:
    """Ray's autoscaler starts a pod of a group only for what the group says it will have."""
    for service in build.list_kind("RayService"):
        groups = [group for group in list_groups(service) if group.has_gpu]
        for group in groups:
            try:
                read_resources(group)
            except ValueError as error:
                yield report(service, f"{group.path}.rayStartParams.resources", f"Ray cannot read it: {error}.")
                return
        for each in read_deployments(service):
            kind = (each.get("ray_actor_options") or {}).get("accelerator_type")
            if kind and not any(f"accelerator_type:{kind}" in read_resources(group) for group in groups):
                sentence = f"{each['name']} asks for accelerator_type {kind}, which no group's resources announce."
                yield report(service, "spec.serveConfigV2", sentence)


def check_fractions(build: Build) -> Problems:
    """A replica's fraction is on one GPU, so what counts is how many GPUs it takes to lay all fractions out."""
    for service in build.list_kind("RayService"):
        available = sum(group.largest for group in list_groups(service) if group.has_gpu)
        shares = [
            share
            for each in read_deployments(service)
            if (share := ask(each, "num_gpus"))
            for _ in range(count_most(each))
        ]
        if (needed := count_bins(shares)) > available:
            sentence = f"all replicas at their most take {needed} GPUs; the groups have {available}."
            yield report(service, "spec.serveConfigV2", sentence)


def check_room(build: Build) -> Problems:
    """Each replica has room on some node, and all at their most find no fewer CPUs than they ask for."""
    for service in build.list_kind("RayService"):
        groups = list_groups(service)
        deployments = read_deployments(service)
        for wants_gpu in (False, True):
            needed = sum(
                count_most(each) * ask(each, "num_cpus")
                for each in deployments
                if (ask(each, "num_gpus") > 0) == wants_gpu
            )
            available = sum(group.largest * count_cpus(group) for group in groups if group.has_gpu == wants_gpu)
            if needed > available:
                kind = "with" if wants_gpu else "without"
                sentence = (
                    f"replicas {kind} a GPU at their most ask for {needed:g} CPUs; the groups have {available:g}."
                )
                yield report(service, "spec.serveConfigV2", sentence)
        for each in deployments:
            if not any(can_run(group, each) for group in groups):
                yield report(service, "spec.serveConfigV2", f"no group has what a replica of {each['name']} asks for.")
