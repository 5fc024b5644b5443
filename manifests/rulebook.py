"""The rules that no schema knows: each with why it is one, and who says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from manifests import (
    container_rules,
    disruption_rules,
    drain_rules,
    gateway_rules,
    gpu_rules,
    metrics_rules,
    network_rules,
    ray_rules,
    reference_rules,
    serve_rules,
    settings_rules,
)
from manifests.builds import Build
from manifests.problems import Problems

VALIDATION = "KubeRay, ray-operator/controllers/ray/utils/validation.go"
UTIL = "KubeRay, ray-operator/controllers/ray/utils/util.go, GetWorkerGroupDesiredReplicas"
POD = "KubeRay, ray-operator/controllers/ray/common/pod.go"
GKE = "https://cloud.google.com/kubernetes-engine/docs"
KUBERNETES = "https://kubernetes.io/docs"


class Rule(NamedTuple):
    name: str
    check: Callable[[Build], Problems]
    reason: str
    source: str


RULES = (
    Rule("ray-name", ray_rules.check_name, "KubeRay refuses a RayService with a longer name", VALIDATION),
    Rule("ray-version", ray_rules.check_version, "KubeRay judges by it what Ray can do, tokens among it", VALIDATION),
    Rule(
        "ray-images",
        ray_rules.check_images,
        "a node of another version is refused",
        "Ray, _private/utils.py, check_version_info",
    ),
    Rule("ray-restart", ray_rules.check_restart_policy, "refused with autoscaler v2", VALIDATION),
    Rule("ray-bounds", ray_rules.check_bounds, "others are cut to the bounds", UTIL),
    Rule(
        "ray-fault-tolerance",
        ray_rules.check_fault_tolerance,
        "one storage namespace for two clusters is a new cluster with the old one's actors",
        "https://github.com/ray-project/kuberay/pull/5052",
    ),
    Rule(
        "ray-auth",
        ray_rules.check_auth,
        "Ray's ports run what they are sent",
        "https://docs.ray.io/en/latest/ray-security/token-auth.html",
    ),
    Rule(
        "ray-head",
        ray_rules.check_head,
        "what runs on the head ends with it",
        "https://github.com/ray-project/ray/pull/31307",
    ),
    Rule("ray-unsupported", ray_rules.check_unsupported, "refused, or without effect", VALIDATION),
    Rule("drain-grace", drain_rules.check_grace, "KubeRay sets neither time", "Ray, _private/ray_constants.py"),
    Rule("drain-replicas", drain_rules.check_drain, "replicas end with the drain", "Ray, _private/node.py"),
    Rule("drain-spot", drain_rules.check_spot, "a longer time has no effect", f"{GKE}/concepts/spot-vms"),
    Rule("serve-config", serve_rules.check_config, "Serve drops unknown keys without a word", "Ray, serve/schema.py"),
    Rule(
        "serve-plan", serve_rules.check_plan, "replicas would refuse it, one after the other", "pawfect/serve_plan.py"
    ),
    Rule("serve-generated", serve_rules.check_generated, "serve_config.yaml is the one truth", "manifests/pages.py"),
    Rule("serve-proxy", serve_rules.check_proxy, "KubeRay probes a proxy in every pod", POD),
    Rule("metrics-ports", metrics_rules.check_ports, "one port that all agree on", POD),
    Rule("metrics-monitoring", metrics_rules.check_monitoring, "a port that is nowhere is never scraped", "CRD"),
    Rule(
        "metrics-kept",
        metrics_rules.check_kept,
        "an alert on a series that is not scraped never fires",
        "monitoring/, k8s/alerts/",
    ),
    Rule(
        "metrics-namespace",
        metrics_rules.check_namespace,
        "Rules are given the cluster's and the namespace's labels, which Google's own series have not",
        "https://cloud.google.com/stackdriver/docs/managed-prometheus/rules-managed",
    ),
    Rule(
        "gpu-whole",
        gpu_rules.check_whole,
        "extended resources are whole, and requests are limits",
        f"{KUBERNETES}/tasks/manage-gpus/scheduling-gpus/",
    ),
    Rule("gpu-nodes", gpu_rules.check_nodes, "GKE taints GPU nodes, infra/ taints Spot ones", f"{GKE}/how-to/gpus"),
    Rule(
        "gpu-wake",
        gpu_rules.check_wake,
        "a group that announces no L4 is never started for one",
        "Ray, autoscaler/_private/kuberay/autoscaling_config.py",
    ),
    Rule(
        "gpu-fractions",
        gpu_rules.check_fractions,
        "a fraction is on one GPU",
        "https://docs.ray.io/en/latest/ray-core/scheduling/accelerators.html",
    ),
    Rule(
        "ray-room",
        gpu_rules.check_room,
        "a replica that fits nowhere waits for ever",
        "https://docs.ray.io/en/latest/ray-core/scheduling/",
    ),
    Rule(
        "container-rights",
        container_rules.check_rights,
        "the restricted pod security standard",
        f"{KUBERNETES}/concepts/security/pod-security-standards/",
    ),
    Rule("container-room", container_rules.check_room, "KubeRay reads Ray's resources from them", POD),
    Rule(
        "container-image",
        container_rules.check_images,
        "a tag that moves is two versions in one cluster",
        f"{KUBERNETES}/concepts/containers/images/",
    ),
    Rule(
        "container-machine",
        container_rules.check_machines,
        "a pod that fits no node waits for ever",
        f"{GKE}/concepts/plan-node-sizes",
    ),
    Rule("settings-names", settings_rules.check_names, "a misspelt name is silently nothing", "serve_app/settings.py"),
    Rule("settings-values", settings_rules.check_values, "a wrong value stops every replica", "serve_app/settings.py"),
    Rule(
        "settings-alike",
        settings_rules.check_alike,
        "the application is built on any node",
        "Ray, serve/_private/application_state.py",
    ),
    Rule("settings-ray", settings_rules.check_ray, "Ray reads them when it is imported", "pawfect/ray_environment.py"),
    Rule("settings-store", settings_rules.check_store, "several nodes need a store in common", "serve_app/stores.py"),
    Rule(
        "secrets",
        settings_rules.check_secrets,
        "whoever reads the repository reads it",
        f"{KUBERNETES}/concepts/security/secrets-good-practices/",
    ),
    Rule(
        "disruption-budgets",
        disruption_rules.check_budgets,
        "maxUnavailable and shares need a scale subresource",
        f"{KUBERNETES}/tasks/run-application/configure-pdb/#arbitrary-controllers-and-selectors",
    ),
    Rule(
        "network-selectors",
        network_rules.check_selectors,
        "a policy about no pod protects none",
        f"{KUBERNETES}/concepts/services-networking/network-policies/",
    ),
    Rule(
        "network-covered",
        network_rules.check_covered,
        "a pod without a policy is open",
        f"{KUBERNETES}/concepts/services-networking/network-policies/",
    ),
    Rule(
        "network-callers",
        network_rules.check_callers,
        "who has to come in may",
        "https://cloud.google.com/load-balancing/docs/firewall-rules",
    ),
    Rule(
        "network-operator",
        network_rules.check_operator,
        "without the dashboard KubeRay deploys nothing",
        "KubeRay, ray-operator/controllers/ray/rayservice_controller.go, updateHeadPodServeLabel",
    ),
    Rule(
        "network-collectors",
        network_rules.check_collectors,
        "what cannot be reached is not scraped",
        "https://cloud.google.com/stackdriver/docs/managed-prometheus/setup-managed",
    ),
    Rule(
        "network-out",
        network_rules.check_ways_out,
        "a pod that may go somewhere may go nowhere else",
        f"{KUBERNETES}/concepts/services-networking/network-policies/",
    ),
    Rule(
        "network-identity",
        network_rules.check_identity,
        "without a token every call of Google's APIs is refused",
        f"{GKE}/concepts/workload-identity",
    ),
    Rule(
        "network-traces",
        network_rules.check_traces,
        "a collector that cannot be reached costs every span",
        "docs/observability.md",
    ),
    Rule(
        "gateway-targets",
        gateway_rules.check_targets,
        "a policy for nothing has no effect",
        f"{GKE}/how-to/configure-gateway-resources",
    ),
    Rule(
        "gateway-timeout", gateway_rules.check_timeout, "30 s by default", f"{GKE}/how-to/configure-gateway-resources"
    ),
    Rule("gateway-health", gateway_rules.check_health, "CEL rules of the CRD, and what is asked by default", "CRD"),
    Rule(
        "references",
        reference_rules.check_references,
        "a pod waits for what is not there",
        f"{KUBERNETES}/concepts/configuration/configmap/",
    ),
    Rule("mounts", reference_rules.check_mounts, "KubeRay drops a mount without a volume", POD),
    Rule(
        "placeholders",
        reference_rules.check_placeholders,
        "Kustomize keeps what has no replacement",
        "k8s/overlays/gke-l4/replacements.yaml",
    ),
    Rule(
        "namespaces",
        reference_rules.check_namespaces,
        "refused where the namespace is not there",
        f"{KUBERNETES}/concepts/overview/working-with-objects/namespaces/",
    ),
)


def check_rules(build: Build) -> Problems:
    """Problems, each with the name of its rule."""
    for rule in RULES:
        yield from (problem._replace(rule=rule.name) for problem in rule.check(build))
