"""Settings → deployments. `serve_app.app:build` is the import path that serve_config.yaml names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import ray
from ray.serve import Application

from ingress.auth import check_trust
from ingress.deployment import Ingress
from serve_app.deployments import Draft, Editor
from serve_app.errors import ConfigurationError
from serve_app.settings import Settings, load_settings
from serve_app.stores import check_environment

Options = Mapping[str, Mapping[str, Any]]


def build(args: Mapping[str, Any]) -> Application:
    """The application for Serve's config file; `args` are settings that win over the environment.

    Raises ConfigurationError for a wrong setting, and for `local` on more than one node.
    """
    return compose(load_settings(**args))


def compose(settings: Settings, options: Options | None = None) -> Application:
    """`options` are deployment options by deployment name; a config file that Serve reads itself overrides them."""
    check(settings)
    _refuse_several_nodes(settings)
    given = options or {}
    settings = settings.without_secrets()
    draft = Draft.options(**given.get("Draft", {})).bind(settings)
    editor = Editor.options(**given.get("Editor", {})).bind(settings, {"draft": draft})
    return Ingress.options(**given.get("Ingress", {})).bind(settings, editor)


def check(settings: Settings) -> None:
    """Raises ConfigurationError for what would fail on every replica, before any is started."""
    check_environment(settings)
    check_trust(settings, os.environ)


def _refuse_several_nodes(settings: Settings) -> None:
    if settings.env != "local" or not ray.is_initialized():
        return
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    if nodes > 1:
        raise ConfigurationError(
            f"ENV=local keeps its state on one machine and this cluster has {nodes} nodes; use ENV=gcp, or one node."
        )
