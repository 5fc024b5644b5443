"""Who the NetworkPolicies of a build let in to its pods, and where they let them out to."""

from __future__ import annotations

import ipaddress
from typing import Any, Literal

from manifests.builds import Build
from manifests.pods import Pods, selects

NAMESPACE_LABEL = "kubernetes.io/metadata.name"
"""Kubernetes gives it to each namespace."""
Direction = Literal["Ingress", "Egress"]
Peers = list[dict[str, Any]]
"""As policies name them; an empty one stands for everybody."""


def list_policies(build: Build, pods: Pods, direction: Direction) -> list[dict[str, Any]]:
    """Those about what comes in to the pods, or about what goes out of them."""
    return [
        policy["spec"]
        for policy in build.list_kind("NetworkPolicy")
        if direction in _read_types(policy["spec"])
        and policy["metadata"].get("namespace", "default") == pods.namespace
        and selects(policy["spec"]["podSelector"], pods.labels)
    ]


def _read_types(policy: dict[str, Any]) -> list[str]:
    """What the policy is about; where it does not say, what comes in, and with rules for that what goes out, too."""
    return policy.get("policyTypes") or (["Ingress", "Egress"] if policy.get("egress") else ["Ingress"])


def list_peers(build: Build, pods: Pods, direction: Direction, port: int | None, protocol: str = "TCP") -> Peers:
    """Who may come in on the port, or be reached on it; on every port for None."""
    rules, peers = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
    return [
        peer
        for policy in list_policies(build, pods, direction)
        for rule in policy.get(rules) or []
        if not rule.get("ports")
        or (port, protocol) in [(each.get("port"), each.get("protocol", "TCP")) for each in rule["ports"]]
        for peer in rule.get(peers) or [{}]
    ]


def has_block(peers: Peers, block: str) -> bool:
    wanted = ipaddress.IPv4Network(block)
    for peer in peers:
        given = (peer.get("ipBlock") or {}).get("cidr")
        if not peer or (given and wanted.subnet_of(ipaddress.IPv4Network(given))):
            return True
    return False


def has_pods(peers: Peers, pods: Pods) -> bool:
    """Whether pods of the policies' own namespace are among the peers."""
    return any(
        not peer
        or ("podSelector" in peer and "namespaceSelector" not in peer and selects(peer["podSelector"], pods.labels))
        for peer in peers
    )


def has_namespace(peers: Peers, namespace: str) -> bool:
    """Whether all pods of the namespace are among the peers."""
    labels = {NAMESPACE_LABEL: namespace}
    return any(
        not peer
        or ("namespaceSelector" in peer and not peer.get("podSelector") and selects(peer["namespaceSelector"], labels))
        for peer in peers
    )
