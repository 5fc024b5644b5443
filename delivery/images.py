"""Container images: building, pushing, and whether the registry has one."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from delivery.errors import DeliveryError
from delivery.processes import ask, demand, watch

Target = Literal["gpu", "cpu"]
BUILDERS = ("docker", "buildah", "podman")
"""In the order in which they are taken; their `build` takes the same options."""

PLATFORM = "linux/amd64"
"""Of every machine with an L4 and of all our nodes; by default a builder takes its own, which may be arm64."""

_ABSENT = ("not_found", "not found", "no such manifest", "manifest unknown", "name unknown")


def find_builder() -> str:
    for name in BUILDERS:
        if shutil.which(name):
            return name
    raise DeliveryError(f"None of {', '.join(BUILDERS)} is in PATH; one of them is needed to build an image.")


def name_references(image: str, tags: Iterable[str], target: Target) -> list[str]:
    suffix = "" if target == "gpu" else f"-{target}"
    return [f"{image}:{tag}{suffix}" for tag in tags]


def build(builder: str, root: Path, references: list[str], target: Target, version: str) -> str:
    """The new image's id. Its output goes to ours. Raises DeliveryError."""
    with tempfile.TemporaryDirectory(prefix="pawfect-build-") as folder:
        noted = Path(folder) / "id"
        command = [builder, "build", "--platform", PLATFORM, "--target", target, "--iidfile", str(noted)]
        command += ["--build-arg", f"VERSION={version}"]
        for reference in references:
            command += ["--tag", reference]
        watch([*command, "."], root)
        return noted.read_text().strip()


def push(builder: str, reference: str) -> str:
    """The digest that the registry knows it by."""
    if builder == "docker":
        watch(["docker", "push", reference])
        found = json.loads(demand(["docker", "image", "inspect", "--format", "{{json .RepoDigests}}", reference]))
        repository = split_reference(reference)[0]
        digests = [name.partition("@")[2] for name in found or [] if name.partition("@")[0] == repository]
        return digests[0] if digests else "unknown"
    with tempfile.TemporaryDirectory(prefix="pawfect-push-") as folder:
        noted = Path(folder) / "digest"
        watch([builder, "push", "--digestfile", str(noted), reference])
        return noted.read_text().strip()


def is_in_registry(reference: str) -> bool | None:
    """None when it cannot be told: no program for it, no credentials, no network."""
    questions = (
        ["gcloud", "artifacts", "docker", "images", "describe", reference, "--quiet", "--format=value(image)"],
        ["docker", "manifest", "inspect", reference],
    )
    for question in questions:
        if not shutil.which(question[0]):
            continue
        answer = ask(question)
        if answer.status == 0:
            return True
        if any(word in answer.reason.lower() for word in _ABSENT):
            return False
    return None


def split_reference(reference: str) -> tuple[str, str]:
    """`registry:5000/name:tag` or `name@sha256:…` → its repository, and its tag or digest or ''."""
    repository, _, digest = reference.partition("@")
    head, colon, tag = repository.rpartition(":")
    if colon and "/" not in tag:
        return head, digest or tag
    return repository, digest
