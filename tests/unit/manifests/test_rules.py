"""Each rule finds its mistake, seeded in the overlay as it is built, and no other rule sees one there."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from manifests.builds import Build
from manifests.environments import read_environment
from manifests.pods import list_groups
from manifests.problems import Problem
from manifests.rulebook import RULES, check_rules

Tree = dict[str, Any]
Change = Callable[[Tree], None]
CLUSTER = "spec.rayClusterConfig"
HEAD = f"{CLUSTER}.headGroupSpec"
CPU, SPOT, L4 = (f"{CLUSTER}.workerGroupSpecs.{number}" for number in range(3))
GROUPS = (HEAD, CPU, SPOT, L4)
POD = "template.spec"
RAY = f"{POD}.containers.0"
GONE = object()
"""Stands for a field that is taken away."""


def put(path: str, value: Any) -> Change:
    def change(document: Tree) -> None:
        *parents, last = path.split(".")
        inner: Any = document
        for key in parents:
            inner = inner[int(key)] if isinstance(inner, list) else inner.setdefault(key, {})
        place: Any = int(last) if isinstance(inner, list) else last
        if value is GONE:
            del inner[place]
        else:
            inner[place] = value

    return change


def put_variable(group: str, name: str, value: Any) -> Change:
    """In the environment of the group's Ray container; GONE takes it away."""

    def change(document: Tree) -> None:
        inner: Any = document
        for key in f"{group}.{RAY}".split("."):
            inner = inner[int(key)] if isinstance(inner, list) else inner[key]
        others = [each for each in inner.get("env", []) if each["name"] != name]
        inner["env"] = others + ([] if value is GONE else [{"name": name, "value": value}])

    return change


def put_serve(path: str, value: Any) -> Change:
    """In the Serve config; `Name.field` below `deployments` is the field of that deployment."""

    def change(document: Tree) -> None:
        config = yaml.safe_load(document["spec"]["serveConfigV2"])
        if path.startswith("deployments."):
            _, name, field = path.split(".", 2)
            deployments = config["applications"][0]["deployments"]
            put(field, value)(next(each for each in deployments if each["name"] == name))
        else:
            put(path, value)(config)
        document["spec"]["serveConfigV2"] = yaml.safe_dump(config, sort_keys=False)

    return change


def both(*changes: Change) -> Change:
    def change(document: Tree) -> None:
        for each in changes:
            each(document)

    return change


def port(group: str, name: str, number: int) -> Change:
    def change(document: Tree) -> None:
        inner: Any = document
        for key in f"{group}.{RAY}.ports".split("."):
            inner = inner[int(key)] if isinstance(inner, list) else inner[key]
        next(each for each in inner if each["name"] == name)["containerPort"] = number

    return change


SETTINGS, RAY_SETTINGS = "ConfigMap/pawfect-settings", "ConfigMap/pawfect-ray"
SERVICE = "RayService/pawfect"
CONFIG_MAP = {"configMapRef": {"name": "nowhere"}}
SEEDED: dict[str, tuple[str, str, Change, str]] = {
    # what: rule, document, the mistake, what is told of it
    "another version of Ray": ("ray-version", SERVICE, put(f"{CLUSTER}.rayVersion", "2.59.0"), "is 2.59.0; pyproject"),
    "two images": ("ray-images", SERVICE, put(f"{L4}.{RAY}.image", "other:1"), "is other:1; the head's is"),
    "pods that restart": ("ray-restart", SERVICE, put(f"{CPU}.{POD}.restartPolicy", "Always"), "is Always"),
    "more replicas than the most": (
        "ray-bounds",
        SERVICE,
        both(put(f"{CPU}.maxReplicas", 98), put(f"{CPU}.replicas", 99)),
        "replicas 99, max 98",
    ),
    "one state for two clusters": (
        "ray-fault-tolerance",
        SERVICE,
        put(f"{CLUSTER}.gcsFaultToleranceOptions.externalStorageNamespace", "pawfect"),
        "would share their state",
    ),
    "no Redis": (
        "ray-fault-tolerance",
        SERVICE,
        put(f"{CLUSTER}.gcsFaultToleranceOptions.redisAddress", GONE),
        "has no redisAddress",
    ),
    "no token": ("ray-auth", SERVICE, put(f"{CLUSTER}.authOptions", GONE), "mode is not token"),
    "replicas on the head": ("ray-head", SERVICE, put(f"{HEAD}.rayStartParams.num-cpus", GONE), 'is None, not "0"'),
    "a field behind a gate": ("ray-unsupported", SERVICE, put(f"{CLUSTER}.tlsOptions", {}), "behind a feature gate"),
    "labels as a parameter": ("ray-unsupported", SERVICE, put(f"{CPU}.rayStartParams.labels", "a=b"), "is refused"),
    "resources twice": ("ray-unsupported", SERVICE, put(f"{L4}.resources", {"accelerator_type:L4": 1}), "is refused"),
    "no grace period": ("drain-grace", SERVICE, put(f"{CPU}.{POD}.terminationGracePeriodSeconds", GONE), "is not set"),
    "a drain without end": (
        "drain-grace",
        SERVICE,
        put_variable(CPU, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "300"),
        "below the 300 s of grace",
    ),
    "no drain": (
        "drain-grace",
        SERVICE,
        put_variable(HEAD, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", GONE),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S is not set",
    ),
    "a drain that is too short": (
        "drain-replicas",
        SERVICE,
        put_variable(CPU, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "220"),
        "is 220, less than graceful_shutdown_timeout_s 260 of Ingress",
    ),
    "a long grace on Spot": (
        "drain-spot",
        SERVICE,
        put(f"{SPOT}.{POD}.terminationGracePeriodSeconds", 60),
        "is 60; GKE gives pods of a Spot node 15 s",
    ),
    "a wrong type in the Serve config": (
        "serve-config",
        SERVICE,
        put_serve("deployments.Ingress.max_queued_requests", "many"),
        "max_queued_requests: Input should be a valid integer",
    ),
    "a key that Serve drops": ("serve-config", SERVICE, put_serve("proxylocation", "x"), "proxylocation is no key"),
    "a fixed number of a deployment that is scaled": (
        "serve-plan",
        SERVICE,
        put_serve("deployments.Editor.autoscaling_config", GONE),
        "the config: Editor needs an autoscaling_config",
    ),
    "a proxy on the head only": (
        "serve-proxy",
        SERVICE,
        put_serve("proxy_location", "HeadOnly"),
        "proxy_location is HeadOnly",
    ),
    "the loopback address": ("serve-proxy", SERVICE, put_serve("http_options.host", "127.0.0.1"), "127.0.0.1, not"),
    "another port of Serve's": ("serve-proxy", SERVICE, put_serve("http_options.port", 9000), "is 9000, not 8000"),
    "a port that Serve has not": ("serve-proxy", SERVICE, port(CPU, "serve", 8001), "serve is 8001; Serve listens on"),
    "another queue": (
        "serve-generated",
        SERVICE,
        put_serve("deployments.Ingress.max_queued_requests", 1),
        "python -m manifests",
    ),
    "another port of the metrics": (
        "metrics-ports",
        SERVICE,
        put(f"{CPU}.rayStartParams.metrics-export-port", "8081"),
        "is 8081; the service's metrics are on 8080",
    ),
    "a metrics port that is another": ("metrics-ports", SERVICE, port(CPU, "metrics", 8081), "metrics is 8081"),
    "a scraped port that is nowhere": (
        "metrics-monitoring",
        "PodMonitoring/pawfect",
        put("spec.endpoints.0.port", "metric"),
        "metric is no port of",
    ),
    "a monitoring of nothing": (
        "metrics-monitoring",
        "PodMonitoring/pawfect",
        put("spec.selector", {"matchLabels": {"app": "x"}}),
        "selects no pod",
    ),
    "a series that an alert reads and nobody keeps": (
        "metrics-kept",
        "PodMonitoring/pawfect",
        put("spec.endpoints.0.metricRelabeling.0.regex", "ray_node_.*|ray_serve_.*"),
        "which Rules pawfect reads",
    ),
    "an alert on a series of Google's": (
        "metrics-namespace",
        "Rules/pawfect",
        put("spec.groups.0.rules.0.expr", "max(pubsub_googleapis_com:subscription_num_undelivered_messages) > 1"),
        "pubsub_googleapis_com:subscription_num_undelivered_messages in pawfect:jobs_queued:max is not of the cluster",
    ),
    "an alert on a series without a name": (
        "metrics-namespace",
        "Rules/pawfect",
        put("spec.groups.0.rules.0.expr", 'sum(rate({job="pawfect"}[5m])) > -(ray_node_mem_used)'),
        '{job="pawfect"} in pawfect:jobs_queued:max is not of the cluster',
    ),
    "an alert that is no PromQL": (
        "metrics-namespace",
        "Rules/pawfect",
        put("spec.groups.0.rules.0.expr", "max(ray_pawfect_jobs_queued[5m])"),
        "pawfect:jobs_queued:max is no PromQL: ",
    ),
    "half a GPU": (
        "gpu-whole",
        SERVICE,
        put(f"{L4}.{RAY}.resources.requests", {"cpu": "6", "memory": "24Gi", "nvidia.com/gpu": "2"}),
        "is 2 in requests and 1 in limits",
    ),
    "any GPU": (
        "gpu-nodes",
        SERVICE,
        put(f"{L4}.{POD}.nodeSelector", {"pawfect.dev/pool": "l4"}),
        "is not nvidia-l4",
    ),
    "a taint that is not tolerated": ("gpu-nodes", SERVICE, put(f"{L4}.{POD}.tolerations", []), "is not tolerated"),
    "Spot that is not tolerated": (
        "gpu-nodes",
        SERVICE,
        put(f"{SPOT}.{POD}.tolerations", [{"key": "nvidia.com/gpu", "operator": "Exists"}]),
        "cloud.google.com/gke-spot=true:NoSchedule",
    ),
    "a group that announces nothing": (
        "gpu-wake",
        SERVICE,
        both(put(f"{L4}.rayStartParams.resources", GONE), put(f"{SPOT}.rayStartParams.resources", GONE)),
        "FluxFill asks for accelerator_type L4",
    ),
    "resources that Ray cannot read": (
        "gpu-wake",
        SERVICE,
        put(f"{L4}.rayStartParams.resources", '{"accelerator_type:L4": 1}'),
        "Ray cannot read it",
    ),
    "fewer GPUs than fractions": (
        "gpu-fractions",
        SERVICE,
        both(
            put_serve("deployments.FluxFill.autoscaling_config.max_replicas", 4),
            put(f"{SPOT}.maxReplicas", 1),
            put(f"{L4}.maxReplicas", 4),
        ),
        "take 6 GPUs; the groups have 5",
    ),
    "fewer CPUs than replicas": ("ray-room", SERVICE, put(f"{CPU}.rayStartParams.num-cpus", "0"), "the groups have 0"),
    "the right to become root": (
        "container-rights",
        SERVICE,
        put(f"{CPU}.{RAY}.securityContext.allowPrivilegeEscalation", True),
        "allowPrivilegeEscalation is not false",
    ),
    "root": (
        "container-rights",
        "StatefulSet/redis",
        put(f"spec.{POD}.securityContext.runAsNonRoot", False),
        "runAsNonRoot",
    ),
    "capabilities": (
        "container-rights",
        "CronJob/pawfect-weights",
        put(f"spec.jobTemplate.spec.{RAY}.securityContext.capabilities", {}),
        "not all capabilities are dropped",
    ),
    "no profile": (
        "container-rights",
        "StatefulSet/redis",
        put(f"spec.{POD}.securityContext.seccompProfile", GONE),
        "seccompProfile is not RuntimeDefault",
    ),
    "no limit": (
        "container-room",
        "StatefulSet/redis",
        put(f"spec.{RAY}.resources.limits", GONE),
        "memory is not given",
    ),
    "a tag that moves": (
        "container-image",
        "StatefulSet/redis",
        put(f"spec.{RAY}.image", "redis:latest"),
        "redis:latest",
    ),
    "no tag": ("container-image", "StatefulSet/redis", put(f"spec.{RAY}.image", "host:5000/redis"), "is not one image"),
    "more memory than the machine has": (
        "container-machine",
        SERVICE,
        put(f"{L4}.{RAY}.resources.requests.memory", "28Gi"),
        "the pod asks for 28.2 GiB; about 25.9 GiB of g2-standard-8 are left",
    ),
    "more CPUs than the machine has": (
        "container-machine",
        SERVICE,
        put(f"{L4}.{RAY}.resources.requests.cpu", "7500m"),
        "the pod asks for 7.75 CPUs; about 7.41 of g2-standard-8 are left",
    ),
    "a pool that is nowhere": (
        "container-machine",
        SERVICE,
        put(f"{CPU}.{POD}.nodeSelector", {"pawfect.dev/pool": "cpus"}),
        "no node pool is called cpus",
    ),
    "a misspelt older name": ("settings-names", SETTINGS, put("data.PROJEKT_ID", "x"), "PROJEKT_ID is no setting"),
    "a misspelt name": (
        "settings-values",
        SETTINGS,
        put("data.PAWFECT_JOBS__LEASES_S", "9"),
        "Did you mean PAWFECT_JOBS__LEASE_S",
    ),
    "a wrong value": (
        "settings-values",
        SETTINGS,
        put("data.PAWFECT_LOG_LEVEL", "LOUD"),
        "PAWFECT_LOG_LEVEL: Input should",
    ),
    "a setting of some": (
        "settings-alike",
        SERVICE,
        put_variable(CPU, "PAWFECT_LOG_LEVEL", "DEBUG"),
        "PAWFECT_LOG_LEVEL is DEBUG, and None",
    ),
    "Ray's default buckets": (
        "settings-ray",
        RAY_SETTINGS,
        put("data.RAY_SERVE_REQUEST_LATENCY_BUCKETS_MS", GONE),
        "RAY_SERVE_REQUEST_LATENCY_BUCKETS_MS is not given",
    ),
    "a store on each node": ("settings-store", SETTINGS, put("data.ENV", "local"), "ENV is not gcp"),
    "a token among the settings": (
        "secrets",
        SETTINGS,
        put("data.HF_TOKEN", "hf_abcdefghijklmnopqrstuvwxyz"),
        "looks like a secret",
    ),
    "a password in the environment": (
        "secrets",
        "StatefulSet/redis",
        put(f"spec.{RAY}.env.0", {"name": "REDIS_PASSWORD", "value": "hunter2"}),
        "REDIS_PASSWORD looks like a secret",
    ),
    "a budget that cannot be kept": (
        "disruption-budgets",
        "PodDisruptionBudget/pawfect-cpu",
        both(put("spec.minAvailable", GONE), put("spec.maxUnavailable", 1)),
        "has no scale subresource",
    ),
    "a share of Ray's pods": (
        "disruption-budgets",
        "PodDisruptionBudget/pawfect-cpu",
        put("spec.minAvailable", "50%"),
        "is 50%; for Ray's pods it must be a whole number",
    ),
    "a budget that lets no node go": (
        "disruption-budgets",
        "PodDisruptionBudget/pawfect-cpu",
        put("spec.minAvailable", 2),
        "is 2 of 2 pods",
    ),
    "a budget for nothing": (
        "disruption-budgets",
        "PodDisruptionBudget/pawfect-cpu",
        put("spec.selector.matchLabels", {"ray.io/group": "cpus"}),
        "selects no pod",
    ),
    "a policy for nothing": (
        "network-selectors",
        "NetworkPolicy/metrics",
        put("spec.podSelector.matchLabels", {"app": "nobody"}),
        "selects no pod",
    ),
    "a load balancer before a closed door": (
        "network-callers",
        "NetworkPolicy/load-balancer",
        put("spec.ingress.0.from", [{"ipBlock": {"cidr": "35.191.0.0/16"}}]),
        "lets 130.211.0.0/22 in on 8000",
    ),
    "Redis closed to Ray": (
        "network-callers",
        "NetworkPolicy/redis",
        put("spec.ingress.0.ports.0.port", 6380),
        "in on 6379",
    ),
    "Ray's nodes apart": (
        "network-callers",
        "NetworkPolicy/ray",
        put("spec.ingress.0.ports", [{"port": 6379}]),
        "in on any port, as Ray needs it",
    ),
    "the operator shut out": (
        "network-operator",
        "NetworkPolicy/ray",
        put("spec.ingress.1.ports.0.port", 8266),
        "lets kuberay-system in on 8265",
    ),
    "some pods of the operator's namespace": (
        "network-operator",
        "NetworkPolicy/ray",
        put("spec.ingress.1.from.0.podSelector", {"matchLabels": {"app": "operator"}}),
        "lets kuberay-system in on 8265",
    ),
    "metrics behind a closed door": (
        "network-collectors",
        "NetworkPolicy/metrics",
        put("spec.ingress.0.ports.0.port", 8081),
        "lets gmp-system in on 8080",
    ),
    "collectors of another namespace": (
        "network-collectors",
        "NetworkPolicy/metrics",
        put("spec.ingress.0.from.0.namespaceSelector.matchExpressions.0.values", ["gke-gmp-system"]),
        "lets gmp-system in on 8080",
    ),
    "no names": ("network-out", "NetworkPolicy/out", put("spec.egress.1.ports.0.protocol", "TCP"), "out on 53/UDP"),
    "no long names": ("network-out", "NetworkPolicy/out", put("spec.egress.1.ports.1.port", 54), "out on 53/TCP"),
    "the internet without the cluster": (
        "network-out",
        "NetworkPolicy/out",
        put("spec.egress.2.to", [{"ipBlock": {"cidr": "0.0.0.0/0"}}]),
        "out on 443/TCP",
    ),
    "Ray's nodes kept in": (
        "network-out",
        "NetworkPolicy/out",
        put("spec.egress.0.to.0.podSelector", {"matchLabels": {"app.kubernetes.io/name": "redis"}}),
        "out to l4-spot",
    ),
    "Redis out of reach": (
        "network-out",
        "NetworkPolicy/out",
        put("spec.egress.0.to.0.podSelector", {"matchLabels": {"ray.io/is-ray-node": "yes"}}),
        "out to Redis on 6379",
    ),
    "an identity without tokens": (
        "network-identity",
        "NetworkPolicy/identity",
        put("spec.egress.0.ports.0.port", 8080),
        "out to 169.254.169.254/32 on 80",
    ),
    "an identity without tokens on the older dataplane": (
        "network-identity",
        "NetworkPolicy/identity",
        put("spec.egress.0.to.1.ipBlock.cidr", "169.254.169.253/32"),
        "out to 169.254.169.252/32 on 988",
    ),
    "traces to where nothing goes": (
        "network-traces",
        SETTINGS,
        put("data.PAWFECT_TRACING__OTLP_ENDPOINT", "http://otel-collector.observability:4318"),
        "out to otel-collector.observability on 4318",
    ),
    "traces to where nobody comes in": (
        "network-traces",
        SETTINGS,
        put("data.PAWFECT_TRACING__OTLP_ENDPOINT", "http://otel-collector:4318"),
        "otel-collector is in this namespace",
    ),
    "a policy of a service that is nowhere": (
        "gateway-targets",
        "HTTPRoute/pawfect",
        put("spec.rules.0.backendRefs.0.name", "pawfect-svc"),
        "Service pawfect-svc is nowhere",
    ),
    "a port that the service has not": (
        "gateway-targets",
        "HTTPRoute/pawfect",
        put("spec.rules.0.backendRefs.0.port", 80),
        "has no port 80",
    ),
    "a listener that is nowhere": (
        "gateway-targets",
        "HTTPRoute/pawfect",
        put("spec.parentRefs.0.sectionName", "tls"),
        "has no listener tls",
    ),
    "a gateway that is nowhere": (
        "gateway-targets",
        "HTTPRoute/to-https",
        put("spec.parentRefs.0.name", "other"),
        "Gateway 'other' is nowhere",
    ),
    "a load balancer that waits less than Serve": (
        "gateway-timeout",
        "GCPBackendPolicy/pawfect",
        put("spec.default.timeoutSec", 600),
        "request_timeout_s is 600",
    ),
    "a health check of no fixed port": (
        "gateway-health",
        "HealthCheckPolicy/pawfect",
        put("spec.default.config.httpHealthCheck.portSpecification", GONE),
        "USE_FIXED_PORT",
    ),
    "a health check that outlasts its interval": (
        "gateway-health",
        "HealthCheckPolicy/pawfect",
        put("spec.default.timeoutSec", 6),
        "is above checkIntervalSec",
    ),
    "a health check of another page": (
        "gateway-health",
        "HealthCheckPolicy/pawfect",
        put("spec.default.config.httpHealthCheck.requestPath", "/"),
        "is /, not /-/healthz",
    ),
    "an account that is nowhere": (
        "references",
        SERVICE,
        put(f"{CPU}.{POD}.serviceAccountName", "pawfekt"),
        "ServiceAccount pawfekt is nowhere",
    ),
    "a key that the secret has not": (
        "references",
        SERVICE,
        put(f"{CLUSTER}.gcsFaultToleranceOptions.redisPassword.valueFrom.secretKeyRef.key", "pass"),
        "Secret pawfect-redis has no key pass",
    ),
    "a mount without a volume": (
        "mounts",
        SERVICE,
        put(f"{CPU}.{RAY}.volumeMounts.0.name", "temp"),
        "temp is no volume",
    ),
    "an example's host": (
        "placeholders",
        "Gateway/pawfect",
        put("metadata.annotations.by", "a@example.org"),
        "a@example.org",
    ),
    "what was not filled in": (
        "placeholders",
        "HTTPRoute/pawfect",
        put("spec.hostnames.0", "unset"),
        "'unset' stands for",
    ),
    "a namespace that is nowhere": (
        "namespaces",
        "Gateway/pawfect",
        put("metadata.namespace", "pawfekt"),
        "pawfekt is nowhere",
    ),
}
SEEDED |= {
    "KubeRay's variable of Redis": (
        "ray-fault-tolerance",
        SERVICE,
        put_variable(HEAD, "RAY_REDIS_ADDRESS", "redis:6379"),
        "RAY_REDIS_ADDRESS is KubeRay's to set",
    ),
    "a mode of one's own": ("ray-auth", SERVICE, put_variable(CPU, "RAY_AUTH_MODE", "disabled"), "is KubeRay's to set"),
    "a named service of the head": (
        "ray-head",
        SERVICE,
        put(f"{HEAD}.headService", {"metadata": {"name": "mine"}}),
        "has a name; KubeRay refuses",
    ),
    "a suspended group": ("ray-unsupported", SERVICE, put(f"{CPU}.suspend", True), "autoscaler is on"),
    "no pod at all": (
        "ray-bounds",
        SERVICE,
        both(put(f"{CPU}.maxReplicas", 98), put(f"{CPU}.minReplicas", 99)),
        "min 99, replicas 2, max 98",
    ),
    "a drain that is no number": (
        "drain-grace",
        SERVICE,
        put_variable(SPOT, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "10s"),
        "or no number of seconds",
    ),
    "no Serve config": ("serve-config", SERVICE, put("spec.serveConfigV2", "- a\n- list"), "is no YAML mapping"),
    "a Serve config that is no YAML": ("serve-config", SERVICE, put("spec.serveConfigV2", "a: ["), "is no YAML"),
    "user_config that replicas refuse": (
        "serve-plan",
        SERVICE,
        put_serve("deployments.Editor.user_config", {"quality": "gold"}),
        "Editor: ",
    ),
    "a replica that fits nowhere": (
        "ray-room",
        SERVICE,
        put_serve("deployments.PromptEncoder.ray_actor_options.memory", 40 * 2**30),
        "no group has what a replica of PromptEncoder asks for",
    ),
    "user 0": (
        "container-rights",
        "StatefulSet/redis",
        put(f"spec.{RAY}.securityContext.runAsUser", 0),
        "runAsUser is 0",
    ),
    "privileges": (
        "container-rights",
        SERVICE,
        put(f"{L4}.{RAY}.securityContext.privileged", True),
        "privileged is true",
    ),
    "a capability more": (
        "container-rights",
        SERVICE,
        put(f"{CPU}.{RAY}.securityContext.capabilities.add", ["NET_ADMIN"]),
        "not all capabilities are dropped",
    ),
    "no request": ("container-room", SERVICE, put(f"{HEAD}.{RAY}.resources.requests.cpu", GONE), "cpu is not given"),
    "no CPU limit where Ray counts it": (
        "container-room",
        SERVICE,
        put(f"{CPU}.{RAY}.resources.limits.cpu", GONE),
        "cpu is not given",
    ),
    "a token in an argument": (
        "secrets",
        "CronJob/pawfect-weights",
        put(f"spec.jobTemplate.spec.{RAY}.args.0", "--token=hf_abcdefghijklmnopqrstuvwxyz"),
        "an argument looks like a secret",
    ),
    "a key among the settings": (
        "secrets",
        SETTINGS,
        put("data.OTEL_EXPORTER_OTLP_HEADERS", "-----BEGIN PRIVATE KEY-----"),
        "looks like a secret",
    ),
    "a backend policy of nothing": (
        "gateway-targets",
        "GCPBackendPolicy/pawfect",
        put("spec.targetRef.kind", "Gateway"),
        "Gateway pawfect-serve-svc is nowhere",
    ),
    "a ConfigMap that is nowhere": (
        "references",
        "StatefulSet/redis",
        put(f"spec.{RAY}.envFrom", [CONFIG_MAP]),
        "ConfigMap nowhere is nowhere in the build",
    ),
    "a key that a ConfigMap has not": (
        "references",
        "StatefulSet/redis",
        put(
            f"spec.{RAY}.env",
            [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "pawfect-dashboards", "key": "no.json"}}}],
        ),
        "ConfigMap pawfect-dashboards has no key no.json",
    ),
    "a claim that is nowhere": (
        "references",
        "StatefulSet/redis",
        put(f"spec.{POD}.volumes.0", {"name": "tmp", "persistentVolumeClaim": {"claimName": "disk"}}),
        "PersistentVolumeClaim disk is nowhere",
    ),
    "a secret that nobody makes": (
        "references",
        SERVICE,
        put(f"{CPU}.{POD}.volumes.2", {"name": "keys", "secret": {"secretName": "keys"}}),
        "Secret keys is not one that make deploy makes",
    ),
    "a setting that was not filled in": (
        "placeholders",
        SETTINGS,
        put("data.PAWFECT_SERVICE_NAME", ""),
        "is empty",
    ),
}
KNOCK_ON = {
    "ray-head": ["drain-replicas"],
    "metrics-ports": ["network-collectors"],
    "network-selectors": ["network-collectors"],
}
"""Rule → others that rightly see the same: replicas on the head end with its short drain; a port of another number, or
a policy of another pod, keeps collectors out."""
WHOLE = ("ray-name", "network-covered", "serve-generated")
"""Rules whose mistakes are more than one field's, or are seen by another rule, too; each has a test of its own."""


def spoil(built: Build, document: str, change: Change) -> Build:
    """The build with a mistake in one document; generated names end in a hash, which is not told."""
    documents = copy.deepcopy(built.documents)
    kind, name = document.split("/")
    pattern = re.compile(rf"{re.escape(name)}(-[a-z0-9]{{10}})?")
    (chosen,) = [each for each in documents if each["kind"] == kind and pattern.fullmatch(each["metadata"]["name"])]
    change(chosen)
    return replace(built, documents=documents)


def find(built: Build) -> list[Problem]:
    return list(check_rules(built))


@pytest.fixture(scope="module")
def unspoilt(gke: Build) -> set[Problem]:
    return set(find(gke))


@pytest.mark.parametrize("overlay", ["gke", "local", "traced"])
def test_the_overlays_keep_the_rules(overlay: str, request: pytest.FixtureRequest) -> None:
    assert [str(each) for each in find(request.getfixturevalue(overlay))] == []


@pytest.mark.parametrize(("rule", "document", "change", "told"), SEEDED.values(), ids=SEEDED)
def test_a_rule_finds_its_mistake(
    gke: Build, unspoilt: set[Problem], rule: str, document: str, change: Change, told: str
) -> None:
    problems = [each for each in find(spoil(gke, document, change)) if each not in unspoilt]
    others = [each for each in problems if each.rule not in (rule, "serve-generated", *KNOCK_ON.get(rule, ()))]
    assert told in " ".join(str(each) for each in problems if each.rule == rule)
    assert others == []


def test_every_rule_has_a_mistake_that_it_finds() -> None:
    assert {rule for rule, *_ in SEEDED.values()} | set(WHOLE) == {rule.name for rule in RULES}


def test_a_name_that_is_too_long(gke: Build) -> None:
    problems = find(spoil(gke, SERVICE, put("metadata.name", "p" * 48)))
    assert "48 characters; KubeRay takes 47." in {each.sentence for each in problems if each.rule == "ray-name"}
    assert "ray-name" not in {each.rule for each in find(spoil(gke, SERVICE, put("metadata.name", "p" * 47)))}


def test_a_name_that_is_no_label(gke: Build) -> None:
    problems = find(spoil(gke, SERVICE, put("metadata.name", "Pawfect")))
    assert [each.sentence for each in problems if each.rule == "ray-name"] == [
        "is no DNS label (a-z, 0-9 and hyphens, a letter first)."
    ]


def test_a_pod_that_everybody_reaches(gke: Build) -> None:
    open_build = replace(gke, documents=tuple(each for each in gke.documents if each["kind"] != "NetworkPolicy"))
    covered = [each for each in find(open_build) if each.rule == "network-covered"]
    assert len(covered) == 6  # the head and three groups, Redis, the job that fills the bucket


def test_a_policy_with_ways_out_is_about_them(gke: Build) -> None:
    """Also where it does not say so, as Kubernetes has it."""
    narrow = both(put("spec.policyTypes", GONE), put("spec.egress", [{"ports": [{"port": 443}]}]))
    built = spoil(gke, "NetworkPolicy/identity", narrow)
    documents = tuple(each for each in built.documents if each["metadata"]["name"] != "out")
    sentences = {each.sentence for each in find(replace(built, documents=documents)) if each.rule == "network-out"}
    assert "no NetworkPolicy lets it out on 53/UDP." in sentences
    assert "no NetworkPolicy lets it out on 443/TCP." not in sentences


def test_who_may_go_anywhere_needs_no_way_out(gke: Build) -> None:
    closed = [each for each in gke.documents if "Egress" in each.get("spec", {}).get("policyTypes", [])]
    documents = tuple(each for each in gke.documents if each not in closed)
    network = {each.sentence for each in find(replace(gke, documents=documents)) if each.rule.startswith("network-")}
    assert {sentence for sentence in network if "lets it out" in sentence} == set()


def test_the_operator_asks_a_head_that_serves(gke: Build) -> None:
    closed = spoil(gke, "NetworkPolicy/ray", put("spec.ingress.1.ports", [{"port": 8265}]))
    assert "network-operator" not in {each.rule for each in find(closed)}
    serving = spoil(closed, SERVICE, put("spec.excludeHeadPodFromServeSvc", GONE))
    told = [each.sentence for each in find(serving) if each.rule == "network-operator"]
    assert told == ["no NetworkPolicy lets kuberay-system in on 8000."]


def test_the_component_of_traces_names_its_collector_to_all(traced: Build) -> None:
    (service,) = traced.list_kind("RayService")
    endpoints = {
        read_environment(traced, group.container).get("PAWFECT_TRACING__OTLP_ENDPOINT")
        for group in list_groups(service)
    }
    assert endpoints == {"http://otel-collector.observability:4318"}


def test_a_collector_outside_is_reached_as_the_apis_are(gke: Build) -> None:
    built = spoil(gke, SETTINGS, put("data.PAWFECT_TRACING__OTLP_ENDPOINT", "https://collector.example.net"))
    assert "network-traces" not in {each.rule for each in find(built)}


def test_a_collector_that_is_no_address_is_a_wrong_value(gke: Build) -> None:
    built = spoil(gke, SETTINGS, put("data.PAWFECT_TRACING__OTLP_ENDPOINT", "collector:port"))
    assert {each.rule for each in find(built)} == {"settings-values"}


def test_a_deployment_without_the_way_in(gke: Build) -> None:
    kinds = ("GCPBackendPolicy", "HealthCheckPolicy")
    bare = replace(gke, documents=tuple(each for each in gke.documents if each["kind"] not in kinds))
    assert {each.rule for each in find(bare)} - {each.rule for each in find(gke)} == {
        "gateway-timeout",
        "gateway-health",
    }


def test_a_secret_in_the_repository(gke: Build) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x", "namespace": "pawfect"}, "data": {}}
    problems = set(find(replace(gke, documents=(*gke.documents, secret)))) - set(find(gke))
    assert [each.sentence for each in problems] == ["is in the repository; a Secret is made in the cluster."]


def test_rules_have_a_reason_and_a_source() -> None:
    assert [rule.name for rule in RULES if not (rule.reason and rule.source)] == []
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_a_problem_says_where(gke: Build) -> None:
    built = spoil(gke, SERVICE, put(f"{CLUSTER}.rayVersion", "2.59.0"))
    (problem,) = [each for each in find(built) if each.rule == "ray-version"]
    assert str(problem).startswith("RayService/pawfect: spec.rayClusterConfig.rayVersion: is 2.59.0; ")
    assert str(problem).endswith(" [ray-version]")
    assert Path(built.folder).name == "gke-l4"
