"""Every metric's name, labels, unit and buckets, and where they go; on Ray that is `ray_metrics`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import prometheus_client

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 45, 60, 90, 120, 180, 300, 600)
"""Bucket bounds in seconds, from 10 ms to 10 min; fine between 10 and 60 s, where the promise to the app lies."""
ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Bucket bounds for the size of a batch, up to what flux.batch_rows allows."""


class Kind(Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    kind: Kind
    description: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = SECONDS


JOBS = Metric(
    "pawfect_jobs_total",
    Kind.COUNTER,
    "Jobs that ended, by outcome: completed, failed, cancelled; by source: session, http, headshot; and by whose fault "
    "the failure was: none, caller, service.",
    ("outcome", "quality", "engine", "source", "fault"),
)
ATTEMPT_RESULTS = ("completed", "failed", "retried", "cancelled", "released", "postponed", "lost", "crashed")
ATTEMPTS = Metric(
    "pawfect_attempts_total", Kind.COUNTER, f"Runs, by how they ended: {', '.join(ATTEMPT_RESULTS)}.", ("result",)
)
STAGE_SECONDS = Metric(
    "pawfect_stage_seconds",
    Kind.HISTOGRAM,
    "Seconds a completed job spent per stage.",
    ("stage", "quality", "engine"),
)
END_TO_END_SECONDS = Metric(
    "pawfect_end_to_end_seconds",
    Kind.HISTOGRAM,
    "Seconds from publishTime to the end of the job. start: cold when its engine had no ready replica at some time "
    "since it came, else warm; unknown where nobody watched.",
    ("outcome", "quality", "engine", "source", "start"),
)
PROMISES = ("kept", "broken")
EDITS = Metric(
    "pawfect_edits_total",
    Kind.COUNTER,
    "Completed session edits, by the promise to the app: kept when they ended within 60 s of publishTime, else broken; "
    "by start: cold, warm, unknown.",
    ("promise", "start"),
)
COST_USD = Metric(
    "pawfect_cost_usd_total", Kind.COUNTER, "GPU cost of completed jobs, in US dollars.", ("quality", "engine")
)
GPU_HOUR_USD = Metric("pawfect_gpu_hour_usd", Kind.GAUGE, "Configured price of one GPU hour, in US dollars.")
JOBS_QUEUED = Metric("pawfect_jobs_queued", Kind.GAUGE, "Jobs waiting in the store.", ("lane",))
JOBS_RUNNING = Metric("pawfect_jobs_running", Kind.GAUGE, "Jobs claimed and running.", ("lane",))
OLDEST_QUEUED_SECONDS = Metric(
    "pawfect_oldest_queued_seconds", Kind.GAUGE, "Age of the oldest queued job, 0 when none.", ("lane",)
)
OLDEST_RUNNING_SECONDS = Metric(
    "pawfect_oldest_running_seconds",
    Kind.GAUGE,
    "Seconds since the oldest running job was claimed, 0 when none.",
    ("lane",),
)
BACKLOG_SECONDS = Metric(
    "pawfect_backlog_seconds",
    Kind.GAUGE,
    "Engine seconds of work that waits or runs, as the scaling policy sees it while nothing is paused.",
    ("deployment",),
)
STORE_REACHABLE = Metric("pawfect_store_reachable", Kind.GAUGE, "1 while this Editor can read the job store, else 0.")
PAUSED = Metric("pawfect_paused", Kind.GAUGE, "1 while consumption is paused, else 0.")
REPLICAS = Metric(
    "pawfect_replicas", Kind.GAUGE, "Replicas by state: running, starting, stopping.", ("deployment", "state")
)
REPLICAS_BY_HAND = Metric(
    "pawfect_replicas_by_hand",
    Kind.GAUGE,
    "Replicas set by an operator, -1 when none: exactly (pin) or at least (floor).",
    ("deployment", "kind"),
)
ENGINE_LOAD_SECONDS = Metric(
    "pawfect_engine_load_seconds", Kind.GAUGE, "Seconds the last model load took.", ("engine",)
)
ENGINE_READY = Metric("pawfect_engine_ready", Kind.GAUGE, "1 while the engine's model is loaded, else 0.", ("engine",))
LOAD_OUTCOMES = ("loaded", "failed")
ENGINE_LOADS = Metric(
    "pawfect_engine_loads_total",
    Kind.COUNTER,
    "Model loads of replicas that ended: loaded, which is a cold start, or failed for good.",
    ("engine", "outcome"),
)
ENGINE_LOAD_FAILED = Metric(
    "pawfect_engine_load_failed",
    Kind.GAUGE,
    "1 for 2 minutes after an Editor learnt that a replica's model did not load, else 0.",
    ("engine",),
)
ENGINE_SECONDS = Metric(
    "pawfect_engine_seconds_total", Kind.COUNTER, "Seconds engines worked on requests.", ("engine",)
)
GPU_SECONDS = Metric(
    "pawfect_gpu_seconds_total", Kind.COUNTER, "Seconds of accelerator time used by jobs.", ("engine",)
)
GPU_HELD_SECONDS = Metric(
    "pawfect_gpu_held_seconds_total",
    Kind.COUNTER,
    "Seconds times the share of a GPU that replicas held, at work or idle; 0 on a CPU.",
    ("engine",),
)
GPU_MEMORY_BYTES = Metric(
    "pawfect_gpu_memory_bytes",
    Kind.GAUGE,
    "Accelerator memory of an engine's process: allocated now, its peak since the start, and the limit; CUDA only.",
    ("engine", "kind"),
)
OUT_OF_MEMORY = Metric(
    "pawfect_out_of_memory_total",
    Kind.COUNTER,
    "Calls of a model that its accelerator had too little memory for, those tried again included.",
    ("engine",),
)
HEADSHOT_STAGE_SECONDS = Metric(
    "pawfect_headshot_stage_seconds", Kind.HISTOGRAM, "Seconds of one stage of a headshot in its engine.", ("stage",)
)
HEADSHOT_REASONS = Metric(
    "pawfect_headshot_reasons_total", Kind.COUNTER, "Photos below a limit of the quality gate, by code.", ("reason",)
)
ENGINE_TICK_SECONDS = Metric(
    "pawfect_engine_tick_seconds",
    Kind.HISTOGRAM,
    "Seconds of one uninterruptible piece of FLUX's work: encode, step, decode.",
    ("engine", "work"),
)
ENGINE_BATCH_ROWS = Metric(
    "pawfect_engine_batch_rows", Kind.HISTOGRAM, "Rows of one call of the transformer.", ("engine",), ROWS
)
ENGINE_REQUESTS = Metric(
    "pawfect_engine_requests",
    Kind.GAUGE,
    "Requests in an engine: waiting for their first tick, running.",
    ("engine", "state"),
)
ENGINE_FAILURES = Metric(
    "pawfect_engine_failures_total",
    Kind.COUNTER,
    "Requests that ended badly in an engine, by error code.",
    ("engine", "kind"),
)
DEAD_LETTERS = Metric("pawfect_dead_letters_total", Kind.COUNTER, "Dead letters written, by reason code.", ("reason",))
PUSHES = Metric("pawfect_pushes_total", Kind.COUNTER, "Pub/Sub pushes answered, by HTTP status.", ("status",))
PROMPTS = Metric(
    "pawfect_prompts_total",
    Kind.COUNTER,
    "Prompts looked up, by where the embedding came from: memory, disk, encoded.",
    ("source",),
)

ALL = (
    JOBS,
    ATTEMPTS,
    STAGE_SECONDS,
    END_TO_END_SECONDS,
    EDITS,
    COST_USD,
    GPU_HOUR_USD,
    JOBS_QUEUED,
    JOBS_RUNNING,
    OLDEST_QUEUED_SECONDS,
    OLDEST_RUNNING_SECONDS,
    BACKLOG_SECONDS,
    STORE_REACHABLE,
    PAUSED,
    REPLICAS,
    REPLICAS_BY_HAND,
    ENGINE_LOAD_SECONDS,
    ENGINE_READY,
    ENGINE_LOADS,
    ENGINE_LOAD_FAILED,
    ENGINE_SECONDS,
    HEADSHOT_STAGE_SECONDS,
    HEADSHOT_REASONS,
    ENGINE_TICK_SECONDS,
    ENGINE_BATCH_ROWS,
    ENGINE_REQUESTS,
    ENGINE_FAILURES,
    GPU_SECONDS,
    GPU_HELD_SECONDS,
    GPU_MEMORY_BYTES,
    OUT_OF_MEMORY,
    DEAD_LETTERS,
    PUSHES,
    PROMPTS,
)


class Sink(Protocol):
    def record(self, metric: Metric, value: float = 1.0, /, **labels: str) -> None:
        """Add to a counter, set a gauge, observe in a histogram. `labels` are exactly the metric's."""

    def declare(self, metric: Metric, /, **labels: str) -> None:
        """Have a counter's series exist, at 0 until the first event: a query that looks for an increase does not see
        the first one of a series that begins with it."""


class PlainSink:
    """Metrics of one Python process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        self._series: dict[str, Any] = {metric.name: self._make(metric) for metric in ALL}

    def _make(self, metric: Metric) -> Any:
        common: dict[str, Any] = {"labelnames": metric.labels, "registry": self.registry}
        match metric.kind:
            case Kind.COUNTER:
                return prometheus_client.Counter(metric.name, metric.description, **common)
            case Kind.GAUGE:
                return prometheus_client.Gauge(metric.name, metric.description, **common)
            case Kind.HISTOGRAM:
                return prometheus_client.Histogram(metric.name, metric.description, buckets=metric.buckets, **common)

    def record(self, metric: Metric, value: float = 1.0, /, **labels: str) -> None:
        series = self._series[metric.name]
        if labels:
            series = series.labels(**labels)
        match metric.kind:
            case Kind.COUNTER:
                series.inc(value)
            case Kind.GAUGE:
                series.set(value)
            case Kind.HISTOGRAM:
                series.observe(value)

    def declare(self, metric: Metric, /, **labels: str) -> None:
        assert metric.kind is Kind.COUNTER
        self.record(metric, 0.0, **labels)

    def value(self, name: str, **labels: str) -> float | None:
        """A sample as a scraper would see it; None when it has never been recorded."""
        return self.registry.get_sample_value(name, labels)
