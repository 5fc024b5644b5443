"""What a container finds in its environment, and the settings that the service would read there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from manifests.builds import Build, Document

if TYPE_CHECKING:
    from serve_app.settings import Settings

UNKNOWN = "set-by-the-cluster"
"""Stands for what a Secret or a field of the pod will give."""


def read_environment(build: Build, container: Document) -> dict[str, str]:
    """Variable → value; `env` wins over `envFrom`, as Kubernetes has it."""
    environment: dict[str, str] = {}
    for each in container.get("envFrom") or []:
        name = (each.get("configMapRef") or {}).get("name")
        for source in build.list_kind("ConfigMap"):
            if source["metadata"]["name"] == name:
                environment.update({each.get("prefix", "") + key: text for key, text in source["data"].items()})
    for each in container.get("env") or []:
        environment[each["name"]] = str(each["value"]) if "value" in each else UNKNOWN
    return environment


def load_settings(environment: dict[str, str]) -> Settings:
    """The settings as a container with this environment reads them; raises ConfigurationError."""
    from serve_app import settings

    with _replace_environment(environment), tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):
        return settings.load_settings()  # elsewhere, so that no developer's .env is read


@contextlib.contextmanager
def _replace_environment(environment: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
