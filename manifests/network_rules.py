"""NetworkPolicies: each is about some pod, no pod is open to all, and those who have to come in may."""

from __future__ import annotations

import ipaddress
from typing import Any

from manifests.builds import Build
from manifests.pods import Pods, list_pods, selects
from manifests.problems import Problems, report
from manifests.serve_rules import SERVE_PORT

LOAD_BALANCER_RANGES = ("35.191.0.0/16", "130.211.0.0/22")
"""Google's front ends and health checks: https://cloud.google.com/load-balancing/docs/firewall-rules."""
REDIS_PORT = 6379


def check_selectors(build: Build) -> Problems:
    for policy in build.list_kind("NetworkPolicy"):
        if not any(selects(policy["spec"]["podSelector"], each.labels) for each in list_pods(build)):
            yield report(policy, "spec.podSelector", "selects no pod of this build.")


def check_covered(build: Build) -> Problems:
    for pods in list_pods(build):
        if not _list_policies(build, pods):
            yield report(pods.document, pods.path, "no NetworkPolicy says who may come in, so everybody may.")


def check_callers(build: Build) -> Problems:
    """Google's load balancer and Ray's other nodes reach each Ray pod, and these reach Redis."""
    everyone = list(list_pods(build))
    ray = [each for each in everyone if each.group is not None]
    for pods in ray:
        if build.list_kind("Gateway"):
            for block in LOAD_BALANCER_RANGES:
                if not _admits_block(build, pods, block, SERVE_PORT):
                    yield report(pods.document, pods.path, f"no NetworkPolicy lets {block} in on {SERVE_PORT}.")
        for other in ray:
            if not _admits_pods(build, pods, other, None):
                sentence = f"no NetworkPolicy lets {other.labels['ray.io/group']} in on any port, as Ray needs it."
                yield report(pods.document, pods.path, sentence)
    for pods in everyone:
        if pods.labels.get("app.kubernetes.io/name") == "redis":
            for other in ray:
                if not _admits_pods(build, pods, other, REDIS_PORT):
                    sentence = f"no NetworkPolicy lets {other.labels['ray.io/group']} in on {REDIS_PORT}."
                    yield report(pods.document, pods.path, sentence)


def _list_policies(build: Build, pods: Pods) -> list[dict[str, Any]]:
    """Those about what comes in to the pods."""
    return [
        policy["spec"]
        for policy in build.list_kind("NetworkPolicy")
        if "Ingress" in policy["spec"].get("policyTypes", ["Ingress"])
        and policy["metadata"].get("namespace", "default") == pods.namespace
        and selects(policy["spec"]["podSelector"], pods.labels)
    ]


def _list_peers(build: Build, pods: Pods, port: int | None) -> list[dict[str, Any]]:
    """Who may come in on the port; on every port for None. An empty peer stands for everybody."""
    return [
        peer
        for policy in _list_policies(build, pods)
        for rule in policy.get("ingress") or []
        if not rule.get("ports") or port in [each.get("port") for each in rule["ports"]]
        for peer in rule.get("from") or [{}]
    ]


def _admits_block(build: Build, pods: Pods, block: str, port: int) -> bool:
    wanted = ipaddress.IPv4Network(block)
    for peer in _list_peers(build, pods, port):
        given = (peer.get("ipBlock") or {}).get("cidr")
        if not peer or (given and wanted.subnet_of(ipaddress.IPv4Network(given))):
            return True
    return False


def _admits_pods(build: Build, pods: Pods, other: Pods, port: int | None) -> bool:
    return any(
        not peer
        or ("podSelector" in peer and "namespaceSelector" not in peer and selects(peer["podSelector"], other.labels))
        for peer in _list_peers(build, pods, port)
    )
