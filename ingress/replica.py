"""Whether Serve is stopping this replica, which it tells the replica itself only when nothing runs on it any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatus, ReplicaState


def is_ending() -> bool:
    """Asks the controller, and waits for its answer. Raises what Ray raises when that is gone."""
    context = serve.get_replica_context()
    # Serve's public status counts replicas, but does not name them; this is what its dashboard shows.
    details = _get_global_client().get_serve_details()
    return find_ending(details, context.app_name, context.deployment, context.replica_tag)


def find_ending(details: Mapping[str, Any], application: str, deployment: str, replica: str) -> bool:
    """In Serve's details: the application is being deleted, or the replica stopped."""
    found = details["applications"].get(application)
    if found is None or found["status"] == ApplicationStatus.DELETING:
        return True
    replicas = (found["deployments"].get(deployment) or {}).get("replicas", [])
    return any(each["replica_id"] == replica and each["state"] == ReplicaState.STOPPING for each in replicas)
