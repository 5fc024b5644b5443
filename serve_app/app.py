"""Settings → deployments. `serve_app.app:build` is the import path that serve_config.yaml names."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from typing import Any

import ray
from ray.serve import Application

from ingress.deployment import Ingress
from ingress.trust import check_trust
from serve_app.deployments import Draft, Editor, Flux, Headshots, PromptEncoder
from serve_app.errors import ConfigurationError
from serve_app.flux.spec import SPECS, get_spec
from serve_app.headshots.matting_models import get_matting_model
from serve_app.jobs.catalog import HEADSHOTS
from serve_app.settings import Settings, load_settings
from serve_app.stores import check_environment

ASLEEP: dict[str, Any] = {"autoscaling_config": {"min_replicas": 0, "max_replicas": 1}}
"""For a deployment without numbers of its own: no replica before the first call."""
FLUX_PACKAGES = ("torch", "diffusers", "transformers")


def build(args: Mapping[str, Any]) -> Application:
    """The application for Serve's config file; `args` are settings that win over the environment.

    Raises ConfigurationError for a wrong setting, and for `local` on more than one node.
    """
    return compose(load_settings(**args))


def compose(settings: Settings) -> Application:
    """The deployments' numbers are the config file's, which Serve lays over what is said here."""
    check(settings)
    _refuse_several_nodes(settings)
    settings = settings.without_secrets()
    draft = Draft.bind(settings)
    models = _bind_models(settings)
    headshots = Headshots.bind(settings)
    engines = {
        "draft": draft,
        HEADSHOTS: headshots,
        **{SPECS[name].engine: models.pop(name) for name in settings.flux.checkpoints},
    }
    editor = Editor.bind(settings, engines, list(models.values()))
    return Ingress.bind(settings, editor)


def _bind_models(settings: Settings) -> dict[str, Application]:
    """Every model of the table. Those without a checkpoint get no call and so, scaled to zero, no replica; but they are
    there, because Serve refuses a config file that names a deployment which is not."""
    first = next(iter(settings.flux.checkpoints), next(iter(SPECS)))
    encoder = PromptEncoder.bind(settings, first)
    return {
        name: Flux.options(name=spec.deployment, **ASLEEP).bind(settings, name, encoder) for name, spec in SPECS.items()
    }


def check(settings: Settings) -> None:
    """Raises ConfigurationError for what would fail on every replica, before any is started."""
    check_environment(settings)
    check_trust(settings, os.environ)
    _check_flux(settings)
    get_matting_model(settings.headshots.matting_model)


def _check_flux(settings: Settings) -> None:
    for name in settings.flux.checkpoints:
        get_spec(name)
    if settings.flux.checkpoints and not all(importlib.util.find_spec(package) for package in FLUX_PACKAGES):
        raise ConfigurationError(
            "FLUX needs packages that are not installed; install the extra: pip install '.[flux]'."
        )


def _refuse_several_nodes(settings: Settings) -> None:
    if settings.env != "local" or not ray.is_initialized():
        return
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    if nodes > 1:
        raise ConfigurationError(
            f"ENV=local keeps its state on one machine and this cluster has {nodes} nodes; use ENV=gcp, or one node."
        )
