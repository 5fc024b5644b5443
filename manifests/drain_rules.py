"""How long a Ray pod has to end: KubeRay sets no grace period, Ray drains a node for 30 s unless it is told."""

from __future__ import annotations

from manifests.builds import Build, Document
from manifests.environments import read_environment
from manifests.placement import can_run
from manifests.pods import Pods, RayGroup, list_groups, list_ray_pods
from manifests.problems import Problems, report
from manifests.serve_rules import read_deployments

DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
SPOT_GRACE_S = 15
"""What GKE gives pods of a Spot node by default, of the 30 s between notice and end; more has no effect. From GKE
1.35.0-gke.1171000 on a node pool can be configured for more (at most 120 s in all)."""


def check_grace(build: Build) -> Problems:
    for service, pods, group in _list(build):
        grace, path = pods.spec.get("terminationGracePeriodSeconds"), f"{pods.path}.spec.terminationGracePeriodSeconds"
        drain = read_drain_s(build, group)
        where = f"{group.container_path}.env"
        if grace is None:
            yield report(service, path, "is not set; Kubernetes would end the pod after 30 s.")
        elif drain is not None and not 0 < drain < grace:
            yield report(service, where, f"{DRAIN} is {drain:g}; it must be above 0 and below the {grace} s of grace.")
        if drain is None:
            yield report(service, where, f"{DRAIN} is not set, or no number of seconds.")


def check_drain(build: Build) -> Problems:
    """A replica's own grace counts only as long as the node's drain lasts."""
    for service, pods, group in _list(build):
        drain = read_drain_s(build, group)
        if drain is None or pods.is_spot:
            continue
        for each in read_deployments(service):
            patience = float(each.get("graceful_shutdown_timeout_s", 20))
            if can_run(group, each) and drain < patience:
                sentence = (
                    f"{DRAIN} is {drain:g}, less than graceful_shutdown_timeout_s {patience:g} of {each['name']}."
                )
                yield report(service, f"{group.container_path}.env", sentence)


def check_spot(build: Build) -> Problems:
    for service, pods, _ in _list(build):
        grace = pods.spec.get("terminationGracePeriodSeconds")
        if pods.is_spot and grace is not None and grace > SPOT_GRACE_S:
            path = f"{pods.path}.spec.terminationGracePeriodSeconds"
            yield report(service, path, f"is {grace}; GKE gives pods of a Spot node {SPOT_GRACE_S} s.")


def read_drain_s(build: Build, group: RayGroup) -> float | None:
    try:
        return float(read_environment(build, group.container).get(DRAIN, ""))
    except ValueError:
        return None


def _list(build: Build) -> list[tuple[Document, Pods, RayGroup]]:
    return [
        (service, pods, group)
        for service in build.list_kind("RayService")
        for pods, group in zip(list_ray_pods(service), list_groups(service), strict=True)
    ]
