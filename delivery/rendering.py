"""An overlay's manifests as they were at a commit, with that commit's image in them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from delivery.errors import DeliveryError
from delivery.images import split_reference
from delivery.processes import demand
from delivery.project import FILE, check_values, merge_values, read_values, write_values
from delivery.revisions import export

Document = dict[str, Any]

FOLDER = "k8s"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, ten times as fast, where there is libyaml
EARLY = frozenset({"Namespace", "ServiceAccount", "ConfigMap", "NetworkPolicy"})
"""What the weights' Job needs. What runs does not notice: its ConfigMaps have names of their own."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """`image` is what the service's containers run."""

    image: str
    service: Document
    others: list[Document]

    @property
    def name(self) -> str:
        return str(self.service["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.service["metadata"].get("namespace", "default"))

    @property
    def everything(self) -> list[Document]:
        return [*self.others, self.service]

    @property
    def early(self) -> list[Document]:
        return [item for item in self.others if item["kind"] in EARLY]

    @property
    def cron_jobs(self) -> list[Document]:
        """Suspended ones, which never start by themselves: the one that fills the weights bucket."""
        return [item for item in self.others if item["kind"] == "CronJob" and item["spec"].get("suspend")]


def render(root: Path, overlay: str, tag: str, values: Mapping[str, str]) -> Rendered:
    """The overlay at the commit that the tag names, with `values` for what differs per project.

    The tag is set in what Kustomize rendered, not by Kustomize: its image transformer does not look into a RayService
    without a configuration, which an older commit may not have. Raises DeliveryError.
    """
    path = f"{FOLDER}/overlays/{overlay}"
    with tempfile.TemporaryDirectory(prefix="pawfect-overlay-") as folder:
        export(root, tag, FOLDER, Path(folder))
        home = Path(folder) / path
        if not home.is_dir():
            raise DeliveryError(f"Commit {tag[:12]} has no {path}, so there is nothing of it to apply.")
        merged = merge_values(read_values(home / FILE), values)
        check_values(merged, root / path / FILE)
        write_values(home / FILE, merged)
        text = demand(["kubectl", "kustomize", str(home)])
    documents = [item for item in yaml.load_all(text, _LOADER) if item]
    return _sort(documents, f"{merged['IMAGE']}:{tag}", path)


def _sort(documents: list[Document], image: str, path: str) -> Rendered:
    for document in documents:
        set_image(document, image)
    services = [item for item in documents if item["kind"] == "RayService"]
    if len(services) != 1:
        raise DeliveryError(f"{path} has {len(services)} RayServices where there must be one.")
    if set(list_images(services[0], split_reference(image)[0])) != {image}:
        raise DeliveryError(f"No container of the RayService in {path} runs {split_reference(image)[0]}.")
    return Rendered(image, services[0], [item for item in documents if item["kind"] != "RayService"])


def set_image(document: Document, image: str) -> None:
    """Every container of the image's repository gets its tag; others are left alone."""
    repository = split_reference(image)[0]
    for container in _containers(document):
        if split_reference(str(container.get("image", "")))[0] == repository:
            container["image"] = image


def list_images(document: Document, repository: str) -> list[str]:
    """The images of a repository that a document's containers run."""
    found = [str(container.get("image", "")) for container in _containers(document)]
    return [image for image in found if split_reference(image)[0] == repository]


def _containers(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        for key, value in part.items():
            if key in ("containers", "initContainers") and isinstance(value, list):
                yield from value
            else:
                yield from _containers(value)
    elif isinstance(part, list):
        for item in part:
            yield from _containers(item)
