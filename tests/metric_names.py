"""Which metrics there are, with which labels: ours, those that rules record, and the few of others that we read."""

from __future__ import annotations

from collections.abc import Iterable

import promql_parser

from serve_app import metrics
from serve_app.metrics import Kind, Metric
from tests.promql import Reading, read_rules

SERVE = frozenset({"application", "deployment", "replica"})
"""What Ray Serve adds to the metrics of a replica."""
NODE = frozenset({"ip", "IsHeadNode", "RayNodeType"})
OTHERS = {
    "ALERTS": frozenset({"alertname", "alertstate", "severity"}),
    "ray_serve_autoscaling_target_replicas": frozenset({"application", "deployment"}),
    "ray_serve_replica_startup_latency_ms_bucket": frozenset({"application", "deployment", "le"}),
    "ray_serve_num_http_requests_total": frozenset({"application", "method", "route", "status_code"}),
    "ray_node_cpu_utilization": NODE,
    "ray_node_mem_used": NODE,
    "ray_node_mem_total": NODE,
    "ray_node_gpus_utilization": NODE | {"GpuIndex", "GpuDeviceName"},
    "ray_node_gram_used": NODE | {"GpuIndex", "GpuDeviceName"},
    "ray_node_gram_available": NODE | {"GpuIndex", "GpuDeviceName"},
    # Cloud Monitoring's pubsub.googleapis.com/subscription/… as PromQL has it
    "pubsub_googleapis_com:subscription_num_undelivered_messages": frozenset({"subscription_id"}),
    "pubsub_googleapis_com:subscription_oldest_unacked_message_age": frozenset({"subscription_id"}),
}


def find_wrong(readings: Iterable[Reading]) -> list[Reading]:
    """Those of metrics that do not exist, and the labels that theirs does not have."""
    known = list_known()
    wrong = []
    for reading in readings:
        if reading.metric not in known:
            wrong.append(reading)
        elif missing := reading.labels - known[reading.metric]:
            wrong.append(Reading(reading.metric, missing))
    return wrong


def list_known() -> dict[str, frozenset[str]]:
    own = {name: labels for metric in metrics.ALL for name, labels in _list_series(metric)}
    recorded = {rule.name: _list_left(rule.expression) | set(rule.labels) for rule in read_rules() if not rule.is_alert}
    return own | recorded | OTHERS


def _list_series(metric: Metric) -> list[tuple[str, frozenset[str]]]:
    labels = SERVE | set(metric.labels)
    if metric.kind is Kind.HISTOGRAM:
        return [(f"ray_{metric.name}_bucket", labels | {"le"}), (f"ray_{metric.name}_count", labels)]
    return [(f"ray_{metric.name}", labels)]


def _list_left(expression: str) -> frozenset[str]:
    """The labels that an aggregation leaves."""
    node = promql_parser.parse(expression)
    while isinstance(node, promql_parser.BinaryExpr | promql_parser.ParenExpr):
        node = node.lhs if isinstance(node, promql_parser.BinaryExpr) else node.expr
    assert isinstance(node, promql_parser.AggregateExpr), f"a recording rule aggregates: {expression}"
    return frozenset(node.modifier.labels) if node.modifier else frozenset()
