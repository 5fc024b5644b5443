"""The Serve config inside a RayService."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from manifests.builds import Build, Document, read_yaml
from manifests.environments import load_settings, read_environment
from manifests.pages import OVERRIDES, ROOT, merge_overlay
from manifests.pods import list_groups
from manifests.problems import Problems, report
from manifests.serve_config import find_unknown_keys
from serve_app.errors import ConfigurationError

PATH = "spec.serveConfigV2"
SERVE_PORT = 8000


def read_config(service: Document) -> dict[str, Any]:
    """Empty where there is none that can be read; `check_config` tells of that."""
    return _parse(service["spec"].get("serveConfigV2") or "")


@lru_cache(maxsize=4)  # most rules read it
def _parse(text: str) -> dict[str, Any]:
    try:
        config = read_yaml(text)
    except yaml.YAMLError:
        return {}
    return config if isinstance(config, dict) else {}


def read_deployments(service: Document) -> list[dict[str, Any]]:
    applications = read_config(service).get("applications") or []
    return [each for application in applications for each in application.get("deployments") or []]


def check_config(build: Build) -> Problems:
    """What Serve refuses, what it drops without a word, and what our replicas refuse."""
    for service in build.list_kind("RayService"):
        config = read_config(service)
        if not config:
            yield report(service, PATH, "is no YAML mapping.")
            continue
        yield from (report(service, PATH, sentence) for sentence in _find_invalid(config))
        for path, _ in find_unknown_keys(config):
            yield report(service, PATH, f"{path} is no key of Serve's, which would drop it without a word.")


def _find_invalid(config: dict[str, Any]) -> Iterator[str]:
    from pydantic import ValidationError
    from ray.serve.schema import ServeDeploySchema

    try:
        ServeDeploySchema.model_validate(config)
    except ValidationError as error:
        for detail in error.errors():
            yield f"{'.'.join(str(part) for part in detail['loc'])}: {detail['msg']}."


def check_plan(build: Build) -> Problems:
    """The checks that `make serve` makes before it deploys the same file."""
    from pawfect.serve_plan import read_plan

    for service in build.list_kind("RayService"):
        config = read_config(service)
        if not config or any(_find_invalid(config)):
            continue
        try:
            settings = load_settings(read_environment(build, list_groups(service)[0].container))
        except ConfigurationError:
            continue  # the settings' own rule tells of theirs
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "serve_config.yaml"
            path.write_text(service["spec"].get("serveConfigV2") or "")
            try:
                read_plan(path, settings, "0.0.0.0")  # noqa: S104
            except ConfigurationError as error:
                yield report(service, PATH, error.message.replace(str(path), "the config"))


def check_generated(build: Build) -> Problems:
    overrides = build.folder.resolve() / OVERRIDES
    for service in build.list_kind("RayService"):
        if overrides.exists() and read_config(service) != merge_overlay(ROOT, overrides):
            yield report(service, PATH, f"is not what serve_config.yaml and {OVERRIDES} make: python -m manifests.")


def check_proxy(build: Build) -> Problems:
    """Every pod has to answer on the port that the load balancer, KubeRay's probes and its service use."""
    for service in build.list_kind("RayService"):
        if config := read_config(service):
            yield from (report(service, PATH, sentence) for sentence in _find_unreachable(config))
        for group in list_groups(service):
            ports = {each.get("name"): each["containerPort"] for each in group.container.get("ports") or []}
            if ports.get("serve") != SERVE_PORT:
                path = f"{group.container_path}.ports"
                yield report(service, path, f"serve is {ports.get('serve')}; Serve listens on {SERVE_PORT}.")


def _find_unreachable(config: dict[str, Any]) -> Iterator[str]:
    options = config.get("http_options") or {}
    if (place := config.get("proxy_location")) != "EveryNode":
        yield f"proxy_location is {place}; KubeRay's workers are ready only with EveryNode."
    if (host := options.get("host")) != "0.0.0.0":  # noqa: S104
        yield f"http_options.host is {host}, not 0.0.0.0: no pod would answer."
    if (port := options.get("port")) != SERVE_PORT:
        yield f"http_options.port is {port}, not {SERVE_PORT}."
