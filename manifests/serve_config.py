"""A cluster's Serve config: serve_config.yaml with an overlay's few differences merged in."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from serve_app.errors import ConfigurationError

Mapping = dict[str, Any]
OWN_KEYS = ("deployments", "application")
"""Keys of an overrides file that are not Serve's: `deployments` is name → fields, `application` is fields of the one
application; every other key is a key of the config itself."""


def merge_config(config: Mapping, overrides: Mapping) -> Mapping:
    """The config with the overrides in it, keys in the config's order.

    Raises ConfigurationError for a deployment that the config does not have and for a key that Serve does not know.
    """
    applications = config["applications"]
    if len(applications) != 1:
        raise ConfigurationError(f"Overrides are for one application; the config has {len(applications)}.")
    if "applications" in overrides:
        raise ConfigurationError("Overrides have no 'applications'; use 'application' and 'deployments'.")
    application = _merge(applications[0], overrides.get("application") or {})
    application["deployments"] = _merge_deployments(application["deployments"], overrides.get("deployments") or {})
    merged = _merge(config, {key: value for key, value in overrides.items() if key not in OWN_KEYS})
    merged["applications"] = [application]
    for path, known in find_unknown_keys(merged):
        close = difflib.get_close_matches(path.rsplit(".", 1)[-1], known, n=1)
        raise ConfigurationError(f"{path} is no key of Serve's." + (f" Did you mean {close[0]}?" if close else ""))
    return merged


def _merge(given: Mapping, other: Mapping) -> Mapping:
    """`given` with `other` in it; mappings are merged, everything else is replaced."""
    merged = dict(given)
    for key, value in other.items():
        before = merged.get(key)
        merged[key] = _merge(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged


def _merge_deployments(deployments: list[Mapping], overrides: Mapping) -> list[Mapping]:
    known = [each["name"] for each in deployments]
    for name in overrides:
        if name not in known:
            raise ConfigurationError(f"Deployment '{name}' is not in the config; it has {', '.join(known)}.")
    return [_merge(each, overrides.get(each["name"]) or {}) for each in deployments]


def find_unknown_keys(config: Mapping) -> Iterator[tuple[str, list[str]]]:
    """Dotted paths of keys that Serve would drop without a word (its schemas take any), and the keys it knows there."""
    from ray.serve.config import AutoscalingConfig
    from ray.serve.schema import (
        DeploymentSchema,
        HTTPOptionsSchema,
        LoggingConfig,
        RayActorOptionsSchema,
        ServeApplicationSchema,
        ServeDeploySchema,
    )

    def look(path: str, given: Any, schema: Any) -> Iterator[tuple[str, list[str]]]:
        known = list(schema.model_fields)
        yield from ((f"{path}{key}", known) for key in given or {} if key not in known)

    yield from look("", config, ServeDeploySchema)
    yield from look("http_options.", config.get("http_options"), HTTPOptionsSchema)
    yield from look("logging_config.", config.get("logging_config"), LoggingConfig)
    for application in config.get("applications", []):
        yield from look("application.", application, ServeApplicationSchema)
        yield from look("application.logging_config.", application.get("logging_config"), LoggingConfig)
        for each in application.get("deployments", []):
            path = f"deployments.{each.get('name')}."
            yield from look(path, each, DeploymentSchema)
            yield from look(f"{path}autoscaling_config.", each.get("autoscaling_config"), AutoscalingConfig)
            yield from look(f"{path}ray_actor_options.", each.get("ray_actor_options"), RayActorOptionsSchema)
            yield from look(f"{path}logging_config.", each.get("logging_config"), LoggingConfig)
