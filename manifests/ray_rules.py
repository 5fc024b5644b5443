"""RayServices: what KubeRay refuses, or takes and does not do."""

from __future__ import annotations

import re
import tomllib
from functools import cache

from manifests.builds import Build, Document
from manifests.pages import ROOT
from manifests.pods import CLUSTER, list_groups
from manifests.problems import Problems, report

LONGEST_NAME = 47
GATED = ("networkPolicy", "tlsOptions")
REDIS_VARIABLES = ("RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME", "RAY_external_storage_namespace")


def check_name(build: Build) -> Problems:
    for service in build.list_kind("RayService"):
        name = service["metadata"]["name"]
        if len(name) > LONGEST_NAME:
            yield report(service, "metadata.name", f"{len(name)} characters; KubeRay takes {LONGEST_NAME}.")
        if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
            yield report(service, "metadata.name", "is no DNS label (a-z, 0-9 and hyphens, a letter first).")


def check_version(build: Build) -> Problems:
    for service in build.list_kind("RayService"):
        version = _cluster(service).get("rayVersion")
        if version != read_pinned_ray():
            path = f"{CLUSTER}.rayVersion"
            yield report(service, path, f"is {version}; pyproject.toml pins ray to {read_pinned_ray()}.")


@cache
def read_pinned_ray() -> str:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return next(str(text).split("==")[1] for text in dependencies if text.startswith("ray["))


def check_images(build: Build) -> Problems:
    for service in build.list_kind("RayService"):
        groups = list_groups(service)
        first = groups[0].container.get("image")
        for group in groups[1:]:
            if (image := group.container.get("image")) != first:
                yield report(service, f"{group.container_path}.image", f"is {image}; the head's is {first}.")


def check_restart_policy(build: Build) -> Problems:
    for service in build.list_kind("RayService"):
        cluster = _cluster(service)
        if not (cluster.get("enableInTreeAutoscaling") and cluster.get("autoscalerOptions", {}).get("version") == "v2"):
            continue
        for group in list_groups(service):
            if (policy := group.spec["template"]["spec"].get("restartPolicy", "Never")) != "Never":
                path = f"{group.path}.template.spec.restartPolicy"
                yield report(service, path, f"is {policy}; with autoscaler v2 it is Never or unset.")


def check_bounds(build: Build) -> Problems:
    for service in build.list_kind("RayService"):
        for group in list_groups(service)[1:]:
            replicas = int(group.spec.get("replicas", group.smallest))
            if not 0 <= group.smallest <= replicas <= group.largest or group.largest == 0:
                numbers = f"min {group.smallest}, replicas {replicas}, max {group.largest}"
                yield report(service, group.path, f"{numbers}; it must be 0 ≤ min ≤ replicas ≤ max, and max above 0.")


def check_fault_tolerance(build: Build) -> Problems:
    for service in build.list_kind("RayService"):
        options = _cluster(service).get("gcsFaultToleranceOptions")
        path = f"{CLUSTER}.gcsFaultToleranceOptions"
        if not options or not options.get("redisAddress"):
            yield report(service, path, "has no redisAddress: a head that is replaced would take the cluster with it.")
            continue
        if "externalStorageNamespace" in options:
            sentence = "is set: old and new cluster of an upgrade would share their state."
            yield report(service, f"{path}.externalStorageNamespace", sentence)
        for group in list_groups(service):
            for each in group.container.get("env") or []:
                if each["name"] in REDIS_VARIABLES:
                    sentence = f"{each['name']} is KubeRay's to set, from gcsFaultToleranceOptions."
                    yield report(service, f"{group.container_path}.env", sentence)


def check_auth(build: Build) -> Problems:
    for service in build.list_kind("RayService"):
        if _cluster(service).get("authOptions", {}).get("mode") != "token":
            path = f"{CLUSTER}.authOptions"
            yield report(service, path, "mode is not token: whoever reaches Ray's ports may run code.")
        for group in list_groups(service):
            for each in group.container.get("env") or []:
                if each["name"] in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
                    sentence = f"{each['name']} is KubeRay's to set, from authOptions."
                    yield report(service, f"{group.container_path}.env", sentence)


def check_head(build: Build) -> Problems:
    for service in build.list_kind("RayService"):
        head = list_groups(service)[0]
        if (given := head.params.get("num-cpus")) != "0":
            path = f"{head.path}.rayStartParams.num-cpus"
            yield report(service, path, f'is {given!r}, not "0": replicas would run on the head and go with it.')
        if "headService" in head.spec and (head.spec["headService"].get("metadata") or {}).get("name"):
            yield report(service, f"{head.path}.headService", "has a name; KubeRay refuses that in a RayService.")


def check_unsupported(build: Build) -> Problems:
    """Fields that KubeRay refuses together, or that its default feature gates leave without effect."""
    for service in build.list_kind("RayService"):
        cluster = _cluster(service)
        for name in GATED:
            if name in cluster:
                yield report(service, f"{CLUSTER}.{name}", "is behind a feature gate of KubeRay 1.7: it does nothing.")
        for group in list_groups(service):
            if "labels" in group.params:
                yield report(service, f"{group.path}.rayStartParams.labels", "is refused; use the group's labels.")
            if group.spec.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & group.params.keys():
                sentence = "is refused beside num-cpus, num-gpus, memory or resources in rayStartParams."
                yield report(service, f"{group.path}.resources", sentence)
            if group.spec.get("suspend") and cluster.get("enableInTreeAutoscaling"):
                yield report(service, f"{group.path}.suspend", "is refused where Ray's autoscaler is on.")


def _cluster(service: Document) -> Document:
    return dict(service["spec"]["rayClusterConfig"])
