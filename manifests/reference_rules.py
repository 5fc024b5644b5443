"""What is named exists: in the build, or made by `make deploy`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from dotenv import dotenv_values

from manifests.builds import Build, Document
from manifests.pods import list_pods
from manifests.problems import Problems, report

SECRETS = {
    "pawfect-redis": {"password"},
    "pawfect-keys": {"keys.json"},
}
"""Secrets that `make deploy` makes where they are missing, and their keys."""
PROJECT_FILE = "project.env"
PLACEHOLDER = re.compile(
    r"^unset$|\b(my-project|your-project|project-id|example\.(com|org|net)|change[-_]?me|replace[-_]?me|todo|fixme|placeholder)\b",
    re.IGNORECASE,
)


def check_references(build: Build) -> Problems:
    for document in build.documents:
        for path, key, named in _walk(document, ""):
            for kind, name, item in _read_reference(key, named):
                if kind == "Secret":
                    if name not in SECRETS:
                        yield report(document, path, f"Secret {name} is not one that make deploy makes.")
                    elif item is not None and item not in SECRETS[name]:
                        yield report(document, path, f"Secret {name} has no key {item}.")
                elif not build.has(kind, name) and (kind, name) != ("ServiceAccount", "default"):
                    yield report(document, path, f"{kind} {name} is nowhere in the build.")
                elif item is not None and item not in _read_data(build, name):
                    yield report(document, path, f"{kind} {name} has no key {item}.")


def _read_reference(key: str, named: Any) -> Iterator[tuple[str, str, str | None]]:
    """Kind, name and key of what a field points at; nothing where the field is no reference, or an optional one."""
    if isinstance(named, dict) and not named.get("optional"):
        if key in ("secretKeyRef", "secretRef", "secret") and (name := named.get("name", named.get("secretName"))):
            yield "Secret", name, named.get("key")
        elif key in ("configMapKeyRef", "configMapRef", "configMap") and "name" in named:
            yield "ConfigMap", named["name"], named.get("key")
        elif key == "persistentVolumeClaim" and "claimName" in named:
            yield "PersistentVolumeClaim", named["claimName"], None
    elif isinstance(named, str) and key == "serviceAccountName":
        yield "ServiceAccount", named, None
    elif isinstance(named, str) and key == "volumeName":
        yield "PersistentVolume", named, None


def _read_data(build: Build, name: str) -> Document:
    return next(
        (each.get("data") or {} for each in build.list_kind("ConfigMap") if each["metadata"]["name"] == name), {}
    )


def check_mounts(build: Build) -> Problems:
    """KubeRay drops a mount whose volume is not there without a word."""
    for pods in list_pods(build):
        claims = (pods.document.get("spec") or {}).get("volumeClaimTemplates") or []
        volumes = {each["name"] for each in pods.spec.get("volumes") or []} | {
            each["metadata"]["name"] for each in claims
        }
        for path, container in pods.list_containers():
            for mount in container.get("volumeMounts") or []:
                if mount["name"] not in volumes:
                    yield report(pods.document, f"{path}.volumeMounts", f"{mount['name']} is no volume of the pod.")


def check_placeholders(build: Build) -> Problems:
    """A value that should have come from project.env and did not."""
    ours = sorted(
        (value for value in dotenv_values(build.folder / PROJECT_FILE).values() if value), key=len, reverse=True
    )
    for document in build.documents:
        for path, _, value in _walk(document, ""):
            if isinstance(value, str):
                rest = value
                for own in ours:
                    rest = rest.replace(own, "")
                if PLACEHOLDER.search(rest):
                    yield report(document, path, f"{value[:60]!r} stands for something that was never filled in.")
                elif not value and document["kind"] == "ConfigMap":
                    yield report(document, path, "is empty.")


def check_namespaces(build: Build) -> Problems:
    """What is in a namespace names one that the build has."""
    for document in build.documents:
        namespace = document["metadata"].get("namespace")
        if namespace is not None and not build.has("Namespace", namespace):
            yield report(document, "metadata.namespace", f"{namespace} is nowhere in the build.")


def _walk(value: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """Every field: its dotted path, its own key and what it holds."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            where = f"{path}.{key}" if path else str(key)
            yield where, str(key), inner
            yield from _walk(inner, where)
