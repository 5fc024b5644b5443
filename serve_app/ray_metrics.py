"""Metrics of a Serve replica, exported by Ray."""

from __future__ import annotations

from typing import Any

from ray.serve import metrics as serve_metrics
from ray.util import metrics as plain_metrics

from serve_app.metrics import Kind, Metric


class RaySink:
    """Metrics of a Serve replica; Ray adds application, deployment and replica and exports one endpoint per node."""

    def __init__(self) -> None:
        self._series: dict[str, Any] = {}

    def _get(self, metric: Metric) -> Any:
        if metric.name not in self._series:
            common: dict[str, Any] = {"description": metric.description, "tag_keys": metric.labels}
            # Serve keeps the label for the deployment that speaks; these speak of another one.
            metrics: Any = plain_metrics if "deployment" in metric.labels else serve_metrics
            match metric.kind:
                case Kind.COUNTER:
                    made: Any = metrics.Counter(metric.name, **common)
                case Kind.GAUGE:
                    made = metrics.Gauge(metric.name, **common)
                case Kind.HISTOGRAM:
                    made = metrics.Histogram(metric.name, boundaries=list(metric.buckets), **common)
            self._series[metric.name] = made
        return self._series[metric.name]

    def record(self, metric: Metric, value: float = 1.0, /, **labels: str) -> None:
        series = self._get(metric)
        match metric.kind:
            case Kind.COUNTER:
                if value > 0:  # Ray's counters refuse to add nothing
                    series.inc(value, tags=labels)
            case Kind.GAUGE:
                series.set(value, tags=labels)
            case Kind.HISTOGRAM:
                series.observe(value, tags=labels)

    def declare(self, metric: Metric, /, **labels: str) -> None:
        assert metric.kind is Kind.COUNTER
        # Below `inc`, which refuses 0, Ray takes it, and exports the series.
        self._get(metric)._record(0.0, tags=labels)
