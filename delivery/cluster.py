"""A Kubernetes cluster, through kubectl and whatever credentials that has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from delivery.errors import DeliveryError
from delivery.processes import Output, ask, demand

MANAGER = "pawfect-delivery"
"""Who owns the fields that are applied here, https://kubernetes.io/docs/reference/using-api/server-side-apply."""

SERVICE = "rayservices.ray.io"
CLUSTER = "rayclusters.ray.io"
REQUEST = "--request-timeout=30s"

_CONFLICT = re.compile(r'conflicts? with "([^"]+)"(.*?)(?=conflicts? with "|Please review|$)', re.DOTALL)
_FIELD = re.compile(r"\s(\.[\w\[]\S*)")

Document = dict[str, Any]


class Conflict(DeliveryError):
    """Somebody else owns fields that would have another value; `owners` says who which, or what kubectl said."""

    def __init__(self, owners: str) -> None:
        super().__init__(
            f"Others have set fields that this would set otherwise: {owners}. Put what they want into the "
            "manifests, or take the fields over with --force-conflicts; rollback always does."
        )
        self.owners = owners


@dataclass(frozen=True, slots=True)
class Cluster:
    """One context of the kubeconfig. It is named at every call, so that nobody switches it under way."""

    context: str
    server: str
    namespace: str

    def has_service_api(self) -> bool:
        """Whether KubeRay's RayService v1 can be applied. Discovery needs no rights of its own."""
        answer = self._ask("get", "--raw", "/apis/ray.io/v1")
        if answer.status == 0:
            return any(item["kind"] == "RayService" for item in json.loads(answer.out).get("resources", []))
        if "NotFound" in answer.reason:
            return False
        raise DeliveryError(f"The cluster of context {self.context} ({self.server}) does not answer: {answer.reason}")

    def find(self, kind: str, name: str) -> Document | None:
        """None when there is no such object. Raises DeliveryError when it cannot be told."""
        answer = self._ask("get", kind, name, "--namespace", self.namespace, "--ignore-not-found", "--output=json")
        if answer.status != 0:
            raise DeliveryError(f"{kind} {name} cannot be read: {answer.reason}")
        return json.loads(answer.out) if answer.out.strip() else None

    def list_pods(self, selector: str) -> list[Document]:
        """None where they cannot be read: they are for explanations only."""
        answer = self._ask("get", "pods", "--namespace", self.namespace, "--selector", selector, "--output=json")
        return list(json.loads(answer.out)["items"]) if answer.status == 0 else []

    def apply(self, documents: Iterable[Document], *, dry_run: bool = False, force: bool = False) -> list[str]:
        """Apply on the server's side; what it says of each object. Raises Conflict, or DeliveryError."""
        options = ["--dry-run=server"] if dry_run else []
        options += ["--force-conflicts"] if force else []
        given = "\n".join(json.dumps(item, default=str) for item in documents)
        if not given:
            return []
        answer = self._ask(
            "apply", "--server-side", f"--field-manager={MANAGER}", *options, "--filename=-", given=given
        )
        if answer.status == 0:
            return answer.out.splitlines()
        if "conflict" in answer.reason.lower():
            raise Conflict(name_owners(answer.reason))
        raise DeliveryError(f"The cluster refuses what would be applied: {answer.reason}")

    def create_secret(self, name: str, texts: dict[str, str]) -> bool:
        """Unless there is one of that name. Whether it was made; what is in it is told to nobody."""
        if self.find("secret", name) is not None:
            return False
        document = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": self.namespace},
            "stringData": texts,
        }
        answer = self._ask("create", "--filename=-", given=json.dumps(document))
        if answer.status != 0 and "AlreadyExists" not in answer.reason:
            raise DeliveryError(f"Secret {name} cannot be made in namespace {self.namespace}.")
        return answer.status == 0

    def delete(self, kind: str, name: str) -> None:
        """With what belongs to it, and wait until it is gone."""
        self._demand(
            "delete", kind, name, "--namespace", self.namespace, "--ignore-not-found", "--cascade=foreground",
            "--wait=true", "--timeout=120s",
        )  # fmt: skip

    def _ask(self, *words: str, given: str | None = None) -> Output:
        return ask(["kubectl", "--context", self.context, REQUEST, *words], given=given)

    def _demand(self, *words: str) -> str:
        return demand(["kubectl", "--context", self.context, REQUEST, *words])


def connect(context: str | None, namespace: str) -> Cluster:
    """The cluster of a context, by default of the current one. Raises DeliveryError when there is none."""
    if context is None:
        current = ask(["kubectl", "config", "current-context"])
        if current.status != 0:
            raise DeliveryError(
                "kubectl has no current context; name one with --context, or get one with "
                "`gcloud container clusters get-credentials`."
            )
        context = current.out.strip()
    answer = ask(["kubectl", "config", "view", "--minify", "--context", context, "--output=json"])
    if answer.status != 0:
        raise DeliveryError(f"kubectl has no context {context}: {answer.reason}")
    clusters = json.loads(answer.out).get("clusters") or []
    if not clusters:
        raise DeliveryError(f"kubectl's context {context} names no cluster.")
    return Cluster(context, str(clusters[0]["cluster"]["server"]), namespace)


def name_owners(told: str) -> str:
    """`kubectl-edit has .spec.x, .spec.y` out of what kubectl says of a conflict, at length; all of it where it has
    another form."""
    owners: dict[str, list[str]] = {}
    for manager, rest in _CONFLICT.findall(told):
        # Several objects may be in conflict with the same manager, and with the same field.
        owners.setdefault(manager, []).extend(_FIELD.findall(rest))
    named = [f"{manager} has {', '.join(dict.fromkeys(fields))}" for manager, fields in owners.items() if fields]
    return "; ".join(named) or told
