"""What a provider only knows once something was created, made up: in the real form where others are built of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from infra_check.schema import BlockType

PROJECT_NUMBER = "123456789012"
_IDS = {
    "google_pubsub_topic": "projects/{project}/topics/{name}",
    "google_pubsub_subscription": "projects/{project}/subscriptions/{name}",
    "google_secret_manager_secret": "projects/{project}/secrets/{secret_id}",
}
_POOLS = f"projects/{PROJECT_NUMBER}/locations/global/workloadIdentityPools/"
_NAMES = {
    "google_iam_workload_identity_pool": _POOLS + "{workload_identity_pool_id}",
    "google_artifact_registry_repository": "{repository_id}",
}


def make_up(kind: str, block: BlockType, given: Mapping[str, Any], project: str) -> dict[str, Any]:
    """`given` with a value for each computed attribute that has none."""
    values = {**given, "project": given.get("project") or project} if "project" in block.attributes else dict(given)
    known = _make_up_known(kind, values)
    for name, attribute in block.attributes.items():
        if attribute.computed and values.get(name) is None:
            values[name] = (
                known[name] if name in known else _make_up_value(json.loads(attribute.type), f"{kind}.{name}")
            )
    return values


def _make_up_known(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    if kind == "google_service_account":
        email = f"{values['account_id']}@{values['project']}.iam.gserviceaccount.com"
        name = f"projects/{values['project']}/serviceAccounts/{email}"
        return {"email": email, "member": f"serviceAccount:{email}", "name": name, "id": name}
    if kind == "google_project_service_identity":
        email = f"service-{PROJECT_NUMBER}@gcp-sa-{values['service'].partition('.')[0]}.iam.gserviceaccount.com"
        return {"email": email, "member": f"serviceAccount:{email}"}
    known = {"number": PROJECT_NUMBER, "uniform_bucket_level_access": True}
    known |= {"id": _IDS[kind].format(**values)} if kind in _IDS else {}
    known |= {"name": _NAMES[kind].format(**values)} if kind in _NAMES else {}
    return known


def _make_up_value(kind: Any, text: str) -> Any:
    """`kind` is Terraform's own notation of a type, as JSON. A list of objects gets one, everything else is empty."""
    if kind == "string":
        return text
    if kind in ("number", "bool", "dynamic"):
        return None
    collection, inner = kind
    if collection == "object":
        return {name: _make_up_value(part, f"{text}.{name}") for name, part in inner.items()}
    if collection == "map":
        return {}
    return [_make_up_value(inner, text)] if isinstance(inner, list) and inner[0] == "object" else []
