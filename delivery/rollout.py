"""Whether a RayService has rolled out: read from its status, never guessed from time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from delivery.cluster import CLUSTER, SERVICE, Cluster
from delivery.errors import RolloutFailed
from delivery.images import split_reference
from delivery.rendering import list_images

APPLICATION = "pawfect"
SICK = frozenset({"DEPLOY_FAILED", "UNHEALTHY"})
"""Ray Serve tries on after them for a while; only what stays so has failed."""

Say = Callable[[str], None]
Status = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. `timeout_s` has room for a node, the image and the weights; `sick_s` for Serve's own attempts."""

    timeout_s: float = 1800.0
    sick_s: float = 180.0
    poll_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a rollout is, in a sentence."""

    is_done: bool
    is_sick: bool
    line: str


def judge(service: Status, active: Status | None, image: str) -> Standing:
    """`service` is the live RayService, `active` the RayCluster that its traffic goes to."""
    status = service.get("status") or {}
    conditions = {item["type"]: item for item in status.get("conditions") or []}
    serving, pending = status.get("activeServiceStatus") or {}, status.get("pendingServiceStatus") or {}
    if int(status.get("observedGeneration") or 0) < int(service["metadata"].get("generation") or 0):
        return Standing(False, False, "KubeRay has not looked at the change yet")
    side = "new" if pending.get("rayClusterName") else "active"
    told, is_sick = _describe_application(pending if side == "new" else serving)
    line = f"{side} cluster {(pending if side == 'new' else serving).get('rayClusterName') or 'not there yet'}: {told}"
    if _is_true(conditions, "UpgradeInProgress") or side == "new":
        return Standing(False, is_sick, line)
    images = set(list_images(dict(active or {}), split_reference(image)[0]))
    if images != {image}:
        old = ", ".join(sorted(split_reference(found)[1][:12] for found in images)) or "nothing"
        return Standing(False, is_sick, f"{line}; it still runs {old}")
    if not _is_true(conditions, "Ready"):
        ready = conditions.get("Ready") or {}
        return Standing(
            False, is_sick, f"{line}; not ready: {ready.get('message') or ready.get('reason') or 'no word'}"
        )
    return Standing(_find_application(serving).get("status") == "RUNNING", is_sick, line)


def wait(cluster: Cluster, name: str, image: str, patience: Patience, say: Say) -> None:
    """Return once the image serves. Raises RolloutFailed with what the status says."""
    started = time.monotonic()
    sick_since: float | None = None
    said = ""
    while True:
        service = cluster.find(SERVICE, name)
        if service is None:
            raise RolloutFailed(f"RayService {name} is gone; somebody has deleted it.")
        standing = judge(service, _find_active(cluster, service), image)
        now = time.monotonic()
        if standing.line != said:
            say(f"  {now - started:5.0f} s  {standing.line}")
            said = standing.line
        if standing.is_done:
            return
        sick_since = (sick_since or now) if standing.is_sick else None
        is_hopeless = sick_since is not None and now - sick_since >= patience.sick_s
        if is_hopeless or now - started >= patience.timeout_s:
            why = f"for {patience.sick_s:.0f} s it has been so" if is_hopeless else f"{now - started:.0f} s are over"
            raise RolloutFailed(
                f"{image} has not rolled out, {why}: {standing.line}.{_describe_pods(cluster, service)}"
            )
        time.sleep(patience.poll_s)


def _find_active(cluster: Cluster, service: Status) -> Status | None:
    name = ((service.get("status") or {}).get("activeServiceStatus") or {}).get("rayClusterName")
    return cluster.find(CLUSTER, name) if name else None


def _is_true(conditions: Mapping[str, Status], name: str) -> bool:
    return (conditions.get(name) or {}).get("status") == "True"


def _find_application(side: Status) -> Status:
    return (side.get("applicationStatuses") or {}).get(APPLICATION) or {}


def _describe_application(side: Status) -> tuple[str, bool]:
    """What Serve says of the application, and whether that is bad."""
    application = _find_application(side)
    status = str(application.get("status") or "")
    if not status:
        return f"{APPLICATION} is not there yet", False
    parts = [f"{APPLICATION} is {status}"]
    if application.get("message"):
        parts.append(_shorten(application["message"]))
    for name, deployment in sorted((application.get("serveDeploymentStatuses") or {}).items()):
        if deployment.get("status") != "HEALTHY":
            parts.append(f"{name} {deployment.get('status')} {_shorten(deployment.get('message') or '')}".rstrip())
    return "; ".join(parts), status in SICK


def _describe_pods(cluster: Cluster, service: Status) -> str:
    """Pods that are not ready, and why: no node, no image, a crash."""
    status = service.get("status") or {}
    side = status.get("pendingServiceStatus") or {}
    name = side.get("rayClusterName") or (status.get("activeServiceStatus") or {}).get("rayClusterName")
    told = []
    for pod in cluster.list_pods(f"ray.io/cluster={name}") if name else []:
        state = pod.get("status") or {}
        reasons = [item for item in state.get("conditions") or [] if item.get("reason") == "Unschedulable"]
        for container in (state.get("containerStatuses") or []) + (state.get("initContainerStatuses") or []):
            reasons += [found for found in (container.get("state") or {}).values() if found.get("reason")]
        told += [
            f" Pod {pod['metadata']['name']}: {why['reason']} {_shorten(why.get('message') or '')}." for why in reasons
        ]
    return "".join(told)


def _shorten(message: str) -> str:
    """The end of it: that is where a traceback says what was wrong."""
    text = " ".join(str(message).split())
    return text if len(text) <= 300 else "… " + text[-300:]
