"""NetworkPolicies: each is about some pod, no pod is open to all, and those who have to come in or get out may."""

from __future__ import annotations

from urllib.parse import urlsplit

from manifests.builds import Build, Document
from manifests.environments import read_environment
from manifests.pods import Pods, list_pods, selects
from manifests.policies import has_block, has_namespace, has_pods, list_peers, list_policies
from manifests.problems import Problems, report
from manifests.serve_rules import SERVE_PORT

LOAD_BALANCER_RANGES = ("35.191.0.0/16", "130.211.0.0/22")
"""Google's front ends and health checks: https://cloud.google.com/load-balancing/docs/firewall-rules."""
REDIS_PORT = 6379
DASHBOARD_PORT = 8265
OPERATOR_NAMESPACE = "kuberay-system"
"""Where infra/outputs.tf has Helm install KubeRay."""
COLLECTOR_NAMESPACES = ("gmp-system", "gke-gmp-system")
"""Of Managed Service for Prometheus; the second one is Autopilot's."""
WAYS_OUT = ((53, "UDP"), (53, "TCP"), (443, "TCP"))
"""Names, and the APIs of Google and of the cluster. To anywhere: none of them has an address that stays."""
METADATA_SERVERS = (("169.254.169.254/32", 80), ("169.254.169.252/32", 988))
"""Who gives out the tokens of a pod's identity, with Dataplane V2 and with V1."""
IDENTITY = "iam.gke.io/gcp-service-account"
TRACES_ENDPOINT = "PAWFECT_TRACING__OTLP_ENDPOINT"
DEFAULT_PORTS = {"http": 80, "https": 443}


def check_selectors(build: Build) -> Problems:
    for policy in build.list_kind("NetworkPolicy"):
        if not any(selects(policy["spec"]["podSelector"], each.labels) for each in list_pods(build)):
            yield report(policy, "spec.podSelector", "selects no pod of this build.")


def check_covered(build: Build) -> Problems:
    for pods in list_pods(build):
        if not list_policies(build, pods, "Ingress"):
            yield report(pods.document, pods.path, "no NetworkPolicy says who may come in, so everybody may.")


def check_callers(build: Build) -> Problems:
    """Google's load balancer and Ray's other nodes reach each Ray pod, and these reach Redis."""
    ray = _list_ray_pods(build)
    for pods in ray:
        if build.list_kind("Gateway"):
            for block in LOAD_BALANCER_RANGES:
                if not has_block(list_peers(build, pods, "Ingress", SERVE_PORT), block):
                    yield report(pods.document, pods.path, f"no NetworkPolicy lets {block} in on {SERVE_PORT}.")
        for other in ray:
            if not has_pods(list_peers(build, pods, "Ingress", None), other):
                sentence = f"no NetworkPolicy lets {other.labels['ray.io/group']} in on any port, as Ray needs it."
                yield report(pods.document, pods.path, sentence)
    for pods in list_pods(build):
        if _is_redis(pods):
            for other in ray:
                if not has_pods(list_peers(build, pods, "Ingress", REDIS_PORT), other):
                    sentence = f"no NetworkPolicy lets {other.labels['ray.io/group']} in on {REDIS_PORT}."
                    yield report(pods.document, pods.path, sentence)


def check_operator(build: Build) -> Problems:
    """KubeRay deploys through the head's dashboard, and asks the head's proxy where that one serves, too."""
    for pods in _list_ray_pods(build):
        if pods.group is None or not pods.group.is_head:
            continue
        is_excluded = pods.document["spec"].get("excludeHeadPodFromServeSvc", False)
        for port in (DASHBOARD_PORT,) if is_excluded else (DASHBOARD_PORT, SERVE_PORT):
            if not has_namespace(list_peers(build, pods, "Ingress", port), OPERATOR_NAMESPACE):
                sentence = f"no NetworkPolicy lets {OPERATOR_NAMESPACE} in on {port}."
                yield report(pods.document, pods.path, sentence)


def check_collectors(build: Build) -> Problems:
    """Managed Service for Prometheus reaches the port that a PodMonitoring names, on each pod that it is about."""
    for monitoring in build.list_kind("PodMonitoring"):
        for pods in list_pods(build):
            if not selects(monitoring["spec"]["selector"], pods.labels):
                continue
            for port in _list_scraped(monitoring, pods):
                for namespace in COLLECTOR_NAMESPACES:
                    if not has_namespace(list_peers(build, pods, "Ingress", port), namespace):
                        yield report(pods.document, pods.path, f"no NetworkPolicy lets {namespace} in on {port}.")


def _list_scraped(monitoring: Document, pods: Pods) -> list[int]:
    """Numbers of the pods' ports that are scraped."""
    wanted = [endpoint["port"] for endpoint in monitoring["spec"]["endpoints"]]
    ports = [port for _, container in pods.list_containers() for port in container.get("ports") or []]
    return [each["containerPort"] for each in ports if each.get("name") in wanted or each["containerPort"] in wanted]


def check_ways_out(build: Build) -> Problems:
    """Who may not go everywhere still gets to names and APIs, Ray's nodes to each other and to Redis; Redis nowhere."""
    everyone = list(list_pods(build))
    for pods in everyone:
        if _is_redis(pods) or not list_policies(build, pods, "Egress"):
            continue
        for number, protocol in WAYS_OUT:
            if {} not in list_peers(build, pods, "Egress", number, protocol):
                yield report(pods.document, pods.path, f"no NetworkPolicy lets it out on {number}/{protocol}.")
        if pods.group is not None:
            for other in everyone:
                if other.group is not None and not has_pods(list_peers(build, pods, "Egress", None), other):
                    yield report(pods.document, pods.path, f"no NetworkPolicy lets it out to {other.group.name}.")
                elif _is_redis(other) and not has_pods(list_peers(build, pods, "Egress", REDIS_PORT), other):
                    yield report(pods.document, pods.path, f"no NetworkPolicy lets it out to Redis on {REDIS_PORT}.")


def check_identity(build: Build) -> Problems:
    """Pods of an account that stands for one of Google's reach the metadata server."""
    accounts = {
        each["metadata"]["name"]
        for each in build.list_kind("ServiceAccount")
        if IDENTITY in (each["metadata"].get("annotations") or {})
    }
    for pods in list_pods(build):
        if pods.spec.get("serviceAccountName") in accounts and list_policies(build, pods, "Egress"):
            for block, port in METADATA_SERVERS:
                if not has_block(list_peers(build, pods, "Egress", port), block):
                    yield report(pods.document, pods.path, f"no NetworkPolicy lets it out to {block} on {port}.")


def check_traces(build: Build) -> Problems:
    """Ray's pods reach the collector that their settings name, which is in a namespace of its own."""
    for pods in _list_ray_pods(build):
        if pods.group is None or not list_policies(build, pods, "Egress"):
            continue
        endpoint = read_environment(build, pods.group.container).get(TRACES_ENDPOINT, "")
        if (address := _read_address(endpoint)) is not None:
            host, port = address
            if "." not in host:
                yield report(pods.document, pods.path, f"{host} is in this namespace, where it lets nobody in.")
            elif not has_namespace(list_peers(build, pods, "Egress", port), host.split(".")[1]):
                yield report(pods.document, pods.path, f"no NetworkPolicy lets it out to {host} on {port}.")


def _read_address(url: str) -> tuple[str, int] | None:
    """Host and port of a URL; None where it has none, which the settings refuse."""
    try:
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname and port else None


def _list_ray_pods(build: Build) -> list[Pods]:
    return [each for each in list_pods(build) if each.group is not None]


def _is_redis(pods: Pods) -> bool:
    return pods.labels.get("app.kubernetes.io/name") == "redis"
