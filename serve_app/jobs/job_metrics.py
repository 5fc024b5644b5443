"""What is counted when a job ends, under labels whose values are bounded whatever its record says."""

from __future__ import annotations

from itertools import product

from serve_app import metrics
from serve_app.engines.starts import Start, Starts
from serve_app.errors import Fault, PermanentError, TransientError, find_error, find_fault, walk_errors
from serve_app.jobs.catalog import ENGINES, HEADSHOTS
from serve_app.jobs.model import Job, Operation, Stage, Status
from serve_app.metrics import Sink
from serve_app.settings import Settings

HEADSHOT = "headshot"
"""Source and quality of headshots, which have no row of the quality table."""
SOURCES = ("session", "http", HEADSHOT)
PROMISED_S = 60.0
"""Of a session edit, from publishTime to its end: the promise to the app."""
OTHER = "other"
"""A quality or engine that is not known here: of a row that has been removed, of another version."""
UNKNOWN = "unknown"
"""Reason of a failure whose code no class of the tree has."""
ENDS = (
    (Status.COMPLETED, Fault.NONE),
    (Status.FAILED, Fault.CALLER),
    (Status.FAILED, Fault.SERVICE),
    (Status.CANCELLED, Fault.NONE),
)


class JobMetrics:
    """`starts` is what this process knows of the engines; None where it does not look at them."""

    def __init__(self, sink: Sink, settings: Settings, starts: Starts | None = None) -> None:
        self._sink = sink
        self._settings = settings
        self._starts = starts

    def retune(self, settings: Settings) -> None:
        """For jobs that end from now on."""
        self._settings = settings
        self._declare_jobs()

    def declare(self) -> None:
        """Have the series exist that alerts ask about, before the first job ends: what begins at one has not grown."""
        self._declare_jobs()
        for result in metrics.ATTEMPT_RESULTS:
            self._sink.declare(metrics.ATTEMPTS, result=result)
        for kind in (*walk_errors(PermanentError), *walk_errors(TransientError)):
            self._sink.declare(metrics.DEAD_LETTERS, reason=kind.code)
        self._sink.declare(metrics.DEAD_LETTERS, reason=UNKNOWN)
        for promise, start in product(metrics.PROMISES, Start):
            self._sink.declare(metrics.EDITS, promise=promise, start=str(start))
        for metric, engine in product((metrics.ENGINE_SECONDS, metrics.GPU_SECONDS), ENGINES):
            self._sink.declare(metric, engine=engine)

    def _declare_jobs(self) -> None:
        table = [(name, row.engine) for name, row in self._settings.qualities.items()]
        rows = [(source, *row) for source, row in product(("session", "http"), table)]
        for (source, quality, engine), (outcome, fault) in product((*rows, (HEADSHOT, HEADSHOT, HEADSHOTS)), ENDS):
            labels = {"outcome": str(outcome), "fault": str(fault)}
            self._sink.declare(metrics.JOBS, source=source, quality=quality, engine=engine, **labels)
        for quality, engine in (*table, (HEADSHOT, HEADSHOTS)):
            self._sink.declare(metrics.COST_USD, quality=quality, engine=engine)

    def count(self, job: Job, *, ran_here: bool) -> None:
        """Count a job that has ended. What it met can be told only where it ran, and right after."""
        outcome = str(job.status)
        labels = {"quality": self._name_quality(job), "engine": self._name_engine(job)}
        source = _name_source(job)
        elapsed = max(0.0, (job.finished_at or 0.0) - job.published_at)
        start = self._find_start(job) if ran_here else Start.UNKNOWN
        self._sink.record(metrics.JOBS, outcome=outcome, source=source, fault=str(find_job_fault(job)), **labels)
        self._sink.record(
            metrics.END_TO_END_SECONDS, elapsed, outcome=outcome, source=source, start=str(start), **labels
        )
        for stage in Stage:
            if stage in job.stage_seconds:
                self._sink.record(metrics.STAGE_SECONDS, job.stage_seconds[stage], stage=str(stage), **labels)
        if job.status is Status.COMPLETED:
            self._sink.record(metrics.COST_USD, job.cost, **labels)
            if job.session is not None:
                promise = "kept" if elapsed <= PROMISED_S else "broken"
                self._sink.record(metrics.EDITS, promise=promise, start=str(start))
        if job.status is Status.FAILED:
            self._sink.record(metrics.DEAD_LETTERS, reason=name_reason(job.error_code))

    def _name_quality(self, job: Job) -> str:
        if job.operation is Operation.HEADSHOT:
            return HEADSHOT
        name = job.parameters.quality
        return name if name in self._settings.qualities else OTHER

    def _name_engine(self, job: Job) -> str:
        """The engine that did the job or would do it."""
        if job.operation is Operation.HEADSHOT:
            return HEADSHOTS
        row = self._settings.qualities.get(job.parameters.quality)
        name = job.engine or (row.engine if row else None)
        return name if name in ENGINES else OTHER

    def _find_start(self, job: Job) -> Start:
        return Start.UNKNOWN if self._starts is None else self._starts.find(self._name_engine(job), job.created_at)


def find_job_fault(job: Job) -> Fault:
    """Whose fault it is that a job that has ended failed; nobody's when it did not."""
    return find_fault(job.error_code) if job.status is Status.FAILED else Fault.NONE


def name_reason(code: str | None) -> str:
    """An error code as a label."""
    kind = find_error(code)
    return UNKNOWN if kind is None else kind.code


def _name_source(job: Job) -> str:
    if job.operation is Operation.HEADSHOT:
        return HEADSHOT
    return "http" if job.session is None else "session"
