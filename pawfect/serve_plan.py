"""serve_config.yaml as `make serve` deploys it: the same file that a cluster gets, with this start's settings in it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from serve_app.errors import ConfigurationError
from serve_app.jobs.catalog import MODEL_DEPLOYMENTS
from serve_app.settings import Settings, load_settings
from serve_app.tuning import tune, tune_model

CONFIG = Path(__file__).resolve().parent.parent / "serve_config.yaml"
SCALED = ("Editor", "PromptEncoder", *MODEL_DEPLOYMENTS.values())
TUNED = ("Ingress", "Editor")
"""Deployments whose user_config is a `tuning.Tuning`."""
GPU_DEMANDS = ("num_gpus", "accelerator_type")


def read_plan(path: Path, settings: Settings, host: str) -> Any:
    """Serve's `ServeDeploySchema`. Raises ConfigurationError for a file that Serve, or a replica, would not take."""
    from pydantic import ValidationError
    from ray.serve.schema import ServeDeploySchema

    from serve_app.autoscaling import BacklogPolicy

    try:
        content = yaml.safe_load(path.read_text())
        ServeDeploySchema.model_validate(content)
        application = content["applications"][0]
        if policy := application.get("autoscaling_policy"):
            BacklogPolicy(**policy.get("policy_kwargs", {}))
    except (OSError, yaml.YAMLError, ValidationError, TypeError, ValueError, IndexError) as error:
        raise ConfigurationError(f"{path} is not a usable Serve config: {error}") from error
    _check_scaling(path, application)
    content["http_options"] = {**content.get("http_options", {}), "host": host, "port": settings.port}
    # The whole tree, so that the process which builds the application need not see this one's environment. Secrets
    # stay in the environment: Serve keeps the file where everybody on the cluster can read it.
    application["args"] = {**settings.without_secrets().model_dump(mode="json"), **application.get("args", {})}
    _check_tuning(application, load_settings(**application["args"]))
    if settings.flux.device == "cpu":
        _ask_for_no_gpu(application)
    return ServeDeploySchema.model_validate(content)


def _check_scaling(path: Path, application: dict[str, Any]) -> None:
    """Raises ConfigurationError for numbers that Serve would take and that would silently scale nothing: the policy
    hears of the work from the Editors alone, and only of deployments that Serve scales; a fixed number of a deployment
    that starts at zero gives way to that."""
    if not application.get("autoscaling_policy"):
        return
    for each in application["deployments"]:
        if each["name"] in SCALED and "autoscaling_config" not in each:
            raise ConfigurationError(
                f"{path}: {each['name']} needs an autoscaling_config; a fixed number is min_replicas = max_replicas."
            )


def _check_tuning(application: dict[str, Any], settings: Settings) -> None:
    """Raises ConfigurationError for a `user_config` that replicas would refuse: Serve replaces a replica that does, and
    each one after it, until none is left."""
    models = {deployment: name for name, deployment in MODEL_DEPLOYMENTS.items()}
    for each in application.get("deployments", []):
        name, given = each["name"], each.get("user_config")
        try:
            if name in TUNED:
                tune(settings, given)
            elif name in models:
                tune_model(settings, models[name], given)
        except ConfigurationError as error:
            raise ConfigurationError(f"{name}: {error.message}") from None


def list_idle(settings: Settings) -> set[str]:
    """Deployments of models that have no checkpoint: they get no call, and a replica of theirs would not load."""
    models = {MODEL_DEPLOYMENTS[name] for name in MODEL_DEPLOYMENTS.keys() - settings.flux.checkpoints.keys()}
    return models if settings.flux.checkpoints else models | {"PromptEncoder"}


def count_cpus(plan: Any, settings: Settings) -> int:
    """CPUs that all replicas ask for together, at their most. They are a bookkeeping of Ray's: on a machine with fewer
    cores the replicas share those."""
    idle = list_idle(settings)
    return math.ceil(sum(cpus for name, cpus in _list_demands(plan) if name not in idle))


def _list_demands(plan: Any) -> Iterator[tuple[str, float]]:
    for each in plan.model_dump(exclude_unset=True)["applications"][0]["deployments"]:
        scaling = each.get("autoscaling_config")
        replicas = scaling["max_replicas"] if scaling else each.get("num_replicas", 1)
        yield each["name"], replicas * each.get("ray_actor_options", {}).get("num_cpus", 1)


def _ask_for_no_gpu(application: dict[str, Any]) -> None:
    for each in application["deployments"]:
        if each["name"] in MODEL_DEPLOYMENTS.values():
            wanted = each.get("ray_actor_options", {})
            each["ray_actor_options"] = {name: value for name, value in wanted.items() if name not in GPU_DEMANDS}
