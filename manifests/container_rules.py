"""What every container has: no rights, an image that stays the same, and room that is known."""

from __future__ import annotations

from typing import Any

from manifests.builds import Build
from manifests.machines import MACHINES, POOLS, count_bytes, count_cpus
from manifests.pods import CLUSTER, Pods, list_pods
from manifests.problems import Problems, report
from manifests.quantities import GIB, read_quantity

FUSE_REQUESTS = {"cpu": "250m", "memory": "256Mi"}
"""Of the sidecar that mounts buckets, where annotations do not say:
https://cloud.google.com/kubernetes-engine/docs/how-to/cloud-storage-fuse-csi-driver-sidecar."""
AUTOSCALER_REQUESTS = {"cpu": "500m", "memory": "512Mi"}
"""Of the sidecar that KubeRay puts beside the head, where autoscalerOptions do not say."""


def check_rights(build: Build) -> Problems:
    for pods in list_pods(build):
        of_pod = pods.spec.get("securityContext") or {}
        for path, container in pods.list_containers():
            own: dict[str, Any] = container.get("securityContext") or {}
            wrong = []
            if not own.get("runAsNonRoot", of_pod.get("runAsNonRoot")):
                wrong.append("runAsNonRoot is not true")
            if own.get("runAsUser", of_pod.get("runAsUser")) == 0:
                wrong.append("runAsUser is 0")
            if own.get("allowPrivilegeEscalation") is not False:
                wrong.append("allowPrivilegeEscalation is not false")
            if own.get("privileged"):
                wrong.append("privileged is true")
            capabilities = own.get("capabilities") or {}
            if "ALL" not in (capabilities.get("drop") or []) or capabilities.get("add"):
                wrong.append("not all capabilities are dropped")
            if (own.get("seccompProfile") or of_pod.get("seccompProfile") or {}).get("type") != "RuntimeDefault":
                wrong.append("seccompProfile is not RuntimeDefault")
            yield from (report(pods.document, f"{path}.securityContext", f"{sentence}.") for sentence in wrong)


def check_room(build: Build) -> Problems:
    """A memory limit and requests for each; a CPU limit where KubeRay reads Ray's number of CPUs from it."""
    for pods in list_pods(build):
        for number, (path, container) in enumerate(pods.list_containers()):
            resources = container.get("resources") or {}
            wanted = [("requests", "cpu"), ("requests", "memory"), ("limits", "memory")]
            if pods.group is not None and number == 0 and "num-cpus" not in pods.group.params:
                wanted.append(("limits", "cpu"))
            for kind, name in wanted:
                if name not in (resources.get(kind) or {}):
                    yield report(pods.document, f"{path}.resources.{kind}", f"{name} is not given.")


def check_images(build: Build) -> Problems:
    for pods in list_pods(build):
        for path, container in pods.list_containers():
            image = str(container.get("image", ""))
            tag = image.rsplit("/", 1)[-1].partition(":")[2]
            if "@sha256:" not in image and tag in ("", "latest"):
                yield report(pods.document, f"{path}.image", f"{image or 'nothing'} is not one image for good.")


def check_machines(build: Build) -> Problems:
    """A pod that asks for more than GKE leaves of its pool's machine would wait for ever; the pool would not grow."""
    for pods in list_pods(build):
        if pods.pool is None:
            continue
        path = f"{pods.path}.spec"
        if pods.pool not in POOLS:
            yield report(pods.document, f"{path}.nodeSelector", f"no node pool is called {pods.pool}.")
            continue
        machine = MACHINES[POOLS[pods.pool]]
        cpus, size = count_requests(pods)
        if cpus > count_cpus(machine):
            left = f"{count_cpus(machine):.2f} of {POOLS[pods.pool]} are left"
            yield report(pods.document, path, f"the pod asks for {cpus:.2f} CPUs; about {left}.")
        if size > count_bytes(machine):
            left = f"{count_bytes(machine) / GIB:.1f} GiB of {POOLS[pods.pool]} are left"
            yield report(pods.document, path, f"the pod asks for {size / GIB:.1f} GiB; about {left}.")


def count_requests(pods: Pods) -> tuple[float, float]:
    """Cores and bytes that the pod's containers ask for, those that are put beside them included."""
    requests = [
        (container.get("resources") or {}).get("requests") or {} for container in pods.spec.get("containers") or []
    ]
    annotations = (pods.template.get("metadata") or {}).get("annotations") or {}
    if annotations.get("gke-gcsfuse/volumes") == "true":
        requests.append(
            {name: annotations.get(f"gke-gcsfuse/{name}-request", FUSE_REQUESTS[name]) for name in FUSE_REQUESTS}
        )
    if pods.group is not None and pods.group.is_head:
        cluster = pods.document["spec"][CLUSTER.split(".")[1]]
        if cluster.get("enableInTreeAutoscaling"):
            given = ((cluster.get("autoscalerOptions") or {}).get("resources") or {}).get("requests")
            requests.append(given or AUTOSCALER_REQUESTS)
    return tuple(sum(read_quantity(each.get(name, 0)) for each in requests) for name in ("cpu", "memory"))  # type: ignore[return-value]
