"""The way in: Google's load balancer in front of the service that KubeRay makes."""

from __future__ import annotations

from collections.abc import Iterator

from manifests.builds import Build, Document
from manifests.problems import Problems, report
from manifests.serve_rules import SERVE_PORT, read_config

HEALTH_PATH = "/-/healthz"
DEFAULT_TIMEOUT_S = 30
DEFAULT_REQUEST_TIMEOUT_S = 0
CHECK_DEFAULT_S = 5
"""timeoutSec and checkIntervalSec where they are not given."""


def check_targets(build: Build) -> Problems:
    services = list_services(build)
    for kind in ("GCPBackendPolicy", "HealthCheckPolicy"):
        for policy in build.list_kind(kind):
            target = policy["spec"]["targetRef"]
            if target.get("kind") != "Service" or target["name"] not in services:
                sentence = f"{target.get('kind')} {target['name']} is nowhere; there are {', '.join(services)}."
                yield report(policy, "spec.targetRef", sentence)
    for route in build.list_kind("HTTPRoute"):
        for number, backend in _list_backends(route):
            path = f"spec.rules.{number}.backendRefs"
            if (ports := services.get(backend["name"])) is None:
                yield report(route, path, f"Service {backend['name']} is nowhere; there are {', '.join(services)}.")
            elif ports and backend.get("port") not in ports:
                yield report(route, path, f"{backend['name']} has no port {backend.get('port')}.")
        for parent in route["spec"].get("parentRefs") or [{"name": ""}]:
            listeners = _list_listeners(build, parent["name"])
            if listeners is None:
                yield report(route, "spec.parentRefs", f"Gateway '{parent['name']}' is nowhere.")
            elif parent.get("sectionName", listeners[0]) not in listeners:
                yield report(route, "spec.parentRefs", f"{parent['name']} has no listener {parent['sectionName']}.")


def list_services(build: Build) -> dict[str, list[int]]:
    """Name → ports, those that KubeRay makes of a RayService among them; no ports where they are not known here."""
    services = {
        each["metadata"]["name"]: [port["port"] for port in each["spec"].get("ports") or []]
        for each in build.list_kind("Service")
    }
    for service in build.list_kind("RayService"):
        name = service["metadata"]["name"]
        services |= {f"{name}-serve-svc": [SERVE_PORT], f"{name}-head-svc": []}
    return services


def check_timeout(build: Build) -> Problems:
    """The load balancer waits longer than Serve, so that what is too late gets Serve's answer; so does its draining."""
    for service in build.list_kind("RayService"):
        options = read_config(service).get("http_options") or {}
        longest = float(options.get("request_timeout_s") or DEFAULT_REQUEST_TIMEOUT_S)
        for policy in _list_policies(build, "GCPBackendPolicy", service):
            given = (policy["spec"].get("default") or {}).get("timeoutSec", DEFAULT_TIMEOUT_S)
            if given <= longest:
                sentence = f"is {given}; Serve's request_timeout_s is {longest:g}, and it must be longer."
                yield report(policy, "spec.default.timeoutSec", sentence)
        if build.list_kind("Gateway") and not _list_policies(build, "GCPBackendPolicy", service):
            yield report(
                service, "", f"has no GCPBackendPolicy: a request would be cut off after {DEFAULT_TIMEOUT_S} s."
            )


def check_health(build: Build) -> Problems:
    for service in build.list_kind("RayService"):
        policies = _list_policies(build, "HealthCheckPolicy", service)
        if build.list_kind("Gateway") and not policies:
            yield report(service, "", "has no HealthCheckPolicy: Google would ask for /, which is no page here.")
        for policy in policies:
            path = "spec.default.config.httpHealthCheck"
            check = ((policy["spec"].get("default") or {}).get("config") or {}).get("httpHealthCheck") or {}
            if check.get("portSpecification") != "USE_FIXED_PORT" or check.get("port") != SERVE_PORT:
                sentence = (
                    f"port is to be {SERVE_PORT} with portSpecification USE_FIXED_PORT, without which it is refused."
                )
                yield report(policy, path, sentence)
            default = policy["spec"].get("default") or {}
            if default.get("timeoutSec", CHECK_DEFAULT_S) > default.get("checkIntervalSec", CHECK_DEFAULT_S):
                sentence = "is above checkIntervalSec (both are 5 where they are not given), which is refused."
                yield report(policy, "spec.default.timeoutSec", sentence)
            if check.get("requestPath") != HEALTH_PATH:
                yield report(policy, f"{path}.requestPath", f"is {check.get('requestPath')}, not {HEALTH_PATH}.")


def _list_policies(build: Build, kind: str, service: Document) -> list[Document]:
    name = f"{service['metadata']['name']}-serve-svc"
    return [each for each in build.list_kind(kind) if each["spec"]["targetRef"]["name"] == name]


def _list_backends(route: Document) -> Iterator[tuple[int, Document]]:
    for number, rule in enumerate(route["spec"].get("rules") or []):
        yield from ((number, backend) for backend in rule.get("backendRefs") or [])


def _list_listeners(build: Build, name: str) -> list[str] | None:
    for gateway in build.list_kind("Gateway"):
        if gateway["metadata"]["name"] == name:
            return [each["name"] for each in gateway["spec"]["listeners"]]
    return None
