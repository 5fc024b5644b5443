"""Ray's metrics: one endpoint to a node, the same port everywhere, and a PodMonitoring that finds it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser

from manifests.builds import Build, Document
from manifests.pods import list_groups, list_pods, selects
from manifests.problems import Problems, report

PORT_NAME = "metrics"
KUBERAY_PORT = "8080"
"""metrics-export-port where rayStartParams do not say."""
OWN = ("ray_", "pawfect:")
"""Series that have the cluster's labels begin with these: what is scraped here, and what rules here record."""
METRIC = re.compile(r"\bray_(?!io_)\w+")  # ray_io_… are labels


def check_ports(build: Build) -> Problems:
    from serve_app.settings import Settings

    expected = int(Settings.model_fields["metrics_port"].default)
    for service in build.list_kind("RayService"):
        for group in list_groups(service):
            exported = group.params.get("metrics-export-port", KUBERAY_PORT)
            if exported != str(expected):
                path = f"{group.path}.rayStartParams.metrics-export-port"
                yield report(service, path, f"is {exported}; the service's metrics are on {expected}.")
            ports = {each.get("name"): each["containerPort"] for each in group.container.get("ports") or []}
            if ports.get(PORT_NAME) != expected:
                path = f"{group.container_path}.ports"
                yield report(service, path, f"{PORT_NAME} is {ports.get(PORT_NAME)}, not {expected}.")


def check_monitoring(build: Build) -> Problems:
    for monitoring in build.list_kind("PodMonitoring"):
        selected = [each for each in list_pods(build) if selects(monitoring["spec"]["selector"], each.labels)]
        if not selected:
            yield report(monitoring, "spec.selector", "selects no pod of this build.")
        for number, endpoint in enumerate(monitoring["spec"]["endpoints"]):
            for pods in selected:
                ports = [port for _, container in pods.list_containers() for port in container.get("ports") or []]
                if endpoint["port"] not in [port.get("name") for port in ports] + [
                    port["containerPort"] for port in ports
                ]:
                    sentence = f"{endpoint['port']} is no port of {pods.path}."
                    yield report(monitoring, f"spec.endpoints.{number}.port", sentence)


def check_kept(build: Build) -> Problems:
    """What alerts and dashboards ask for gets through the relabeling of what is scraped."""
    for monitoring in build.list_kind("PodMonitoring"):
        rules = [
            rule
            for endpoint in monitoring["spec"]["endpoints"]
            for rule in endpoint.get("metricRelabeling") or []
            if rule.get("sourceLabels") == ["__name__"]
        ]
        for document in build.documents:
            lost = sorted(name for name in list_metrics(document) if not all(_passes(rule, name) for rule in rules))
            if lost:
                sentence = f"drops {', '.join(lost)}, which {document['kind']} {document['metadata']['name']} reads."
                yield report(monitoring, "spec.endpoints", sentence)


def check_namespace(build: Build) -> Problems:
    """Rules are evaluated over their own namespace's series alone."""
    for rules in build.list_kind("Rules"):
        for number, group in enumerate(rules["spec"]["groups"]):
            for rule in group["rules"]:
                where, name = f"spec.groups.{number}.rules", rule.get("alert") or rule["record"]
                try:
                    selected = set(_find_selected(promql_parser.parse(rule["expr"])))
                except ValueError as error:
                    yield report(rules, where, f"{name} is no PromQL: {error}.")
                    continue
                if foreign := sorted(each for each in selected if not each.startswith(OWN)):
                    yield report(rules, where, f"{', '.join(foreign)} in {name} is not of the cluster.")


def _find_selected(node: Any) -> Iterator[str]:
    """Names of the series that an expression reads; a selector without one as it stands."""
    match node:
        case promql_parser.VectorSelector():
            yield node.name or node.prettify()
        case promql_parser.MatrixSelector():
            yield from _find_selected(node.vector_selector)
        case promql_parser.BinaryExpr():
            yield from _find_selected(node.lhs)
            yield from _find_selected(node.rhs)
        case promql_parser.Call():
            for argument in node.args:
                yield from _find_selected(argument)
        case promql_parser.AggregateExpr() | promql_parser.SubqueryExpr():
            yield from _find_selected(node.expr)
        case promql_parser.ParenExpr() | promql_parser.UnaryExpr():
            yield from _find_selected(node.expr)


def _passes(rule: Document, name: str) -> bool:
    action, matches = rule.get("action", "replace"), re.fullmatch(rule.get("regex", "(.*)"), name) is not None
    return {"keep": matches, "drop": not matches}.get(action, True)


def list_metrics(document: Document) -> set[str]:
    """Names of Ray's metrics in the queries of rules and of dashboards (ConfigMaps with JSON)."""
    if document["kind"] == "Rules":
        texts = [rule["expr"] for group in document["spec"]["groups"] for rule in group["rules"]]
    elif document["kind"] == "ConfigMap":
        pages = [text for name, text in (document.get("data") or {}).items() if name.endswith(".json")]
        texts = [query for page in pages for query in _list_queries(json.loads(page))]
    else:
        texts = []
    return {name for text in texts for name in METRIC.findall(text)}


def _list_queries(value: Any) -> list[str]:
    """Everything that a panel or a variable asks for."""
    if isinstance(value, dict):
        own = [value[key] for key in ("expr", "query") if isinstance(value.get(key), str)]
        return own + [query for inner in value.values() for query in _list_queries(inner)]
    return [query for inner in value for query in _list_queries(inner)] if isinstance(value, list) else []
