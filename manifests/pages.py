"""The generated manifests of the overlays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from manifests.builds import read_yaml
from manifests.serve_config import merge_config
from serve_app.errors import ConfigurationError

ROOT = Path(__file__).resolve().parent.parent
OVERLAYS = Path("k8s/overlays")
OVERRIDES = "serve_overrides.yaml"
PATCH = "serve_config.patch.yaml"
RULES = "rules.yaml"
OUTSIDE = ("PawfectPubSubWaits",)
"""Alerts on series that Google writes. Those have no cluster and no namespace, by which Rules, a resource of one
namespace, are evaluated: there they would never fire. Terraform has this one (infra/monitoring.tf)."""
HEADER = "# Written by `python -m manifests` out of {}; not to be edited.\n"


def make_pages(root: Path = ROOT) -> dict[Path, str]:
    """The patch and the rules of each overlay that has a file of overrides; raises ConfigurationError for one that
    cannot be read or merged."""
    pages: dict[Path, str] = {}
    for overrides in sorted((root / OVERLAYS).glob(f"*/{OVERRIDES}")):
        pages[overrides.with_name(PATCH)] = write_patch(merge_overlay(root, overrides))
        pages[overrides.with_name(RULES)] = write_rules(_read(root / "k8s/alerts/pawfect.rules.yaml"))
    return pages


def merge_overlay(root: Path, overrides: Path) -> dict[str, Any]:
    """The Serve config of the overlay that the overrides belong to."""
    try:
        return merge_config(_read(root / "serve_config.yaml"), _read(overrides) or {})
    except ConfigurationError as error:
        raise ConfigurationError(f"{overrides.parent.name}/{overrides.name}: {error.message}") from None


def _read(path: Path) -> Any:
    try:
        return read_yaml(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


def find_stale(pages: dict[Path, str]) -> list[Path]:
    return [path for path, text in pages.items() if not path.exists() or path.read_text() != text]


def write_patch(config: dict[str, Any]) -> str:
    service = {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": "pawfect"},
        "spec": {"serveConfigV2": write_yaml(config)},
    }
    return HEADER.format(f"serve_config.yaml and {OVERRIDES}") + write_yaml(service)


def write_rules(rules: dict[str, Any]) -> str:
    """The groups without what is `OUTSIDE`."""
    groups = [
        {**group, "rules": [rule for rule in group["rules"] if rule.get("alert") not in OUTSIDE]}
        for group in rules["groups"]
    ]
    resource = {
        "apiVersion": "monitoring.googleapis.com/v1",
        "kind": "Rules",
        "metadata": {"name": "pawfect"},
        "spec": {"groups": groups},
    }
    return HEADER.format("k8s/alerts/pawfect.rules.yaml") + write_yaml(resource)


class _BlockDumper(yaml.SafeDumper):
    """Text of several lines is written as such, so that a diff shows the line that changed."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_BlockDumper.add_representer(str, _represent_text)


def write_yaml(content: Any) -> str:
    """Block style, keys as they come, no line folded."""
    return yaml.dump(content, Dumper=_BlockDumper, sort_keys=False, allow_unicode=True, width=10_000)
