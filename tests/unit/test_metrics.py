"""The metric table, and its plain sink."""

from __future__ import annotations

import pytest
from annotated_types import Le

from serve_app import metrics
from serve_app.jobs.job_metrics import PROMISED_S
from serve_app.metrics import ALL, SECONDS, Kind, PlainSink
from serve_app.settings_sections import FluxSettings


def test_names_and_buckets_follow_the_conventions() -> None:
    assert len({metric.name for metric in ALL}) == len(ALL)
    for metric in ALL:
        assert metric.name.startswith("pawfect_")
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
        assert metric.description.endswith(".")
    assert (SECONDS[0], SECONDS[-1]) == (0.01, 600)
    assert list(SECONDS) == sorted(SECONDS)
    defined = {value.name for value in vars(metrics).values() if isinstance(value, metrics.Metric)}
    assert defined == {metric.name for metric in ALL}


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_the_plain_sink_takes_every_metric(metric: metrics.Metric) -> None:
    sink = PlainSink()
    labels = dict.fromkeys(metric.labels, "x")
    for _ in range(2):
        sink.record(metric, 3.0, **labels)
    suffix, expected = {Kind.COUNTER: ("", 6.0), Kind.GAUGE: ("", 3.0), Kind.HISTOGRAM: ("_sum", 6.0)}[metric.kind]
    assert sink.value(metric.name + suffix, **labels) == expected


def test_a_declared_counter_is_there_at_zero_and_keeps_its_value() -> None:
    sink = PlainSink()
    labels = dict.fromkeys(metrics.JOBS.labels, "x")
    assert sink.value("pawfect_jobs_total", **labels) is None
    sink.declare(metrics.JOBS, **labels)
    assert sink.value("pawfect_jobs_total", **labels) == 0
    sink.record(metrics.JOBS, **labels)
    sink.declare(metrics.JOBS, **labels)
    assert sink.value("pawfect_jobs_total", **labels) == 1


def test_the_promise_to_the_app_is_a_bucket() -> None:
    assert PROMISED_S in metrics.END_TO_END_SECONDS.buckets


def test_the_largest_batch_is_a_bucket() -> None:
    (limit,) = (each for each in FluxSettings.model_fields["batch_rows"].metadata if isinstance(each, Le))
    assert limit.le == metrics.ROWS[-1]


def test_labels_that_are_not_the_metrics_own_are_refused() -> None:
    with pytest.raises(ValueError, match="label"):
        PlainSink().record(metrics.JOBS, 1.0, outcome="completed")
