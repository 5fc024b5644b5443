"""The pods that a build's documents bring up, those that KubeRay makes of a RayService among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from manifests.builds import Build, Document

TEMPLATES = {
    "Deployment": "spec.template",
    "StatefulSet": "spec.template",
    "DaemonSet": "spec.template",
    "Job": "spec.template",
    "CronJob": "spec.jobTemplate.spec.template",
}
CLUSTER = "spec.rayClusterConfig"
HEAD = "headgroup"
POOL_LABEL = "pawfect.dev/pool"
SPOT_LABEL = "cloud.google.com/gke-spot"
GPU = "nvidia.com/gpu"


@dataclass(frozen=True)
class Pods:
    """Pods of one template."""

    document: Document
    path: str
    """Of the template, dotted, from the document's root."""
    template: Document
    labels: dict[str, str]
    """As the running pods have them; labels whose values only the cluster knows have an empty one."""
    smallest: int
    """How many there are at least."""
    group: RayGroup | None = None

    @property
    def spec(self) -> dict[str, Any]:
        return dict(self.template.get("spec") or {})

    @property
    def namespace(self) -> str:
        return str(self.document["metadata"].get("namespace", "default"))

    def list_containers(self) -> list[tuple[str, Document]]:
        """Each container and its path, init containers first."""
        return [
            (f"{self.path}.spec.{kind}.{number}", container)
            for kind in ("initContainers", "containers")
            for number, container in enumerate(self.spec.get(kind) or [])
        ]

    @property
    def pool(self) -> str | None:
        return (self.spec.get("nodeSelector") or {}).get(POOL_LABEL)

    @property
    def is_spot(self) -> bool:
        return (self.spec.get("nodeSelector") or {}).get(SPOT_LABEL) == "true"


@dataclass(frozen=True)
class RayGroup:
    name: str
    path: str
    spec: Document

    @property
    def is_head(self) -> bool:
        return self.name == HEAD

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.spec.get("rayStartParams") or {})

    @property
    def container(self) -> Document:
        """Ray's own, which KubeRay takes to be the first; empty where there is none."""
        containers = self.spec["template"]["spec"].get("containers") or [{}]
        return dict(containers[0])

    @property
    def container_path(self) -> str:
        return f"{self.path}.template.spec.containers.0"

    @property
    def largest(self) -> int:
        return 1 if self.is_head else int(self.spec.get("maxReplicas", 2**31 - 1))  # KubeRay's default

    @property
    def smallest(self) -> int:
        return 1 if self.is_head else int(self.spec.get("minReplicas", 0))

    @property
    def has_gpu(self) -> bool:
        return GPU in (self.container.get("resources") or {}).get("limits", {})


def list_groups(service: Document) -> list[RayGroup]:
    """Ray's groups of a RayService, the head first."""
    cluster = service["spec"]["rayClusterConfig"]
    workers = [
        RayGroup(str(group["groupName"]), f"{CLUSTER}.workerGroupSpecs.{number}", group)
        for number, group in enumerate(cluster.get("workerGroupSpecs") or [])
    ]
    return [RayGroup(HEAD, f"{CLUSTER}.headGroupSpec", cluster["headGroupSpec"]), *workers]


def list_ray_pods(service: Document) -> Iterator[Pods]:
    """Source of the labels: labelPod in KubeRay's ray-operator/controllers/ray/common/pod.go."""
    for group in list_groups(service):
        template = group.spec["template"]
        labels = {
            "app.kubernetes.io/name": "kuberay",
            "app.kubernetes.io/created-by": "kuberay-operator",
            "ray.io/is-ray-node": "yes",
            "ray.io/identifier": "",
            **((template.get("metadata") or {}).get("labels") or {}),
            "ray.io/cluster": "",
            "ray.io/node-type": "head" if group.is_head else "worker",
            "ray.io/group": group.name,
        }
        yield Pods(service, f"{group.path}.template", template, labels, group.smallest, group)


def list_pods(build: Build) -> Iterator[Pods]:
    for document in build.documents:
        if document["kind"] == "RayService":
            yield from list_ray_pods(document)
        elif document["kind"] == "Pod":
            yield Pods(document, "", document, _labels(document), 1)
        elif (path := TEMPLATES.get(document["kind"])) is not None:
            template = document
            for part in path.split("."):
                template = template[part]
            yield Pods(document, path, template, _labels(template), int(document["spec"].get("replicas", 1)))


def _labels(template: Document) -> dict[str, str]:
    return dict((template.get("metadata") or {}).get("labels") or {})


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a Kubernetes label selector takes a pod with these labels; an empty one takes all."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    return all(_matches(each, labels) for each in selector.get("matchExpressions") or [])


def _matches(expression: dict[str, Any], labels: dict[str, str]) -> bool:
    key, operator, values = expression["key"], expression["operator"], expression.get("values") or []
    if operator == "Exists":
        return key in labels
    if operator == "DoesNotExist":
        return key not in labels
    is_in = labels.get(key) in values
    return is_in if operator == "In" else not is_in
