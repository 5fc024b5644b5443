"""An overlay as the cluster would get it: what `kubectl kustomize` makes of its folder."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from serve_app.errors import ConfigurationError

BUILD_TIMEOUT_S = 60
Document = dict[str, Any]
FAST_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The C one where PyYAML has it: the RayService's CRD is 2 MB."""


def read_yaml(text: str) -> Any:
    """One document. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=FAST_LOADER)  # noqa: S506 - the C twin of the safe loader


@dataclass(frozen=True)
class Build:
    folder: Path
    documents: tuple[Document, ...]

    def list_kind(self, kind: str) -> list[Document]:
        return [each for each in self.documents if each["kind"] == kind]

    def has(self, kind: str, name: str) -> bool:
        return any(each["metadata"]["name"] == name for each in self.list_kind(kind))


def build(folder: Path) -> Build:
    """Raises ConfigurationError where kubectl is not there or refuses the folder."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise ConfigurationError("kubectl is not in PATH; the manifests are built with its `kustomize`.")
    try:
        answer = subprocess.run(  # noqa: S603
            [kubectl, "kustomize", folder], capture_output=True, text=True, check=False, timeout=BUILD_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigurationError(f"{folder}: kubectl took longer than {BUILD_TIMEOUT_S} s.") from error
    if answer.returncode != 0:
        raise ConfigurationError(f"{folder} does not build: {answer.stderr.strip()}")
    return Build(folder, read_documents(answer.stdout))


def read_documents(text: str) -> tuple[Document, ...]:
    """Raises ConfigurationError for text that is no list of Kubernetes objects."""
    try:
        documents = [each for each in yaml.load_all(text, Loader=FAST_LOADER) if each is not None]
    except yaml.YAMLError as error:
        raise ConfigurationError(f"The build is no YAML: {error}") from error
    for each in documents:
        if not (isinstance(each, dict) and each.get("kind") and each.get("apiVersion") and _name(each)):
            raise ConfigurationError(f"A document has no apiVersion, kind or metadata.name: {str(each)[:80]}")
    return tuple(documents)


def _name(document: Document) -> Any:
    return (document.get("metadata") or {}).get("name")


def show(document: Document) -> str:
    return f"{document['kind']}/{document['metadata']['name']}"
