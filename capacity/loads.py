"""Which limit is met first when there are more photos: demand at a spike beside each limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from capacity.facts import (
    FIRESTORE_WRITES,
    PUSH_BYTES,
    PUSH_WINDOW,
    SAMPLES,
    SIGNATURES,
    STORAGE_READS,
    STORAGE_WRITES,
)
from capacity.limits import LIMITS, Limits
from capacity.measured import EDIT, EDIT_SECOND, JOB_SHARE_OF_WRITES, LEAST_REQUEST_KB, SERIES_A_NODE
from capacity.photos import TFLOP, Span, find_seconds

TODAY_A_DAY = 500.0
"""Photos."""
SPIKE_A_SECOND = 100 / 3600
"""Photos, in today's worst hour."""
FACTORS = (1, 10, 100, 10_000)
UTILISATION = 0.8
"""Of an engine that the scaling policy aims at, serve_config.yaml."""
HELD_S = 60.0
"""A push is held for so long on the average: its photo's queue and run."""
SLOTS = 4
"""Jobs that are not urgent one Editor holds: jobs.slots less jobs.urgent_slots."""
PHOTO_MB = 2.0


@dataclass(frozen=True, slots=True)
class Resource:
    """`demand` of photos a second at the spike, in the unit of the limit. `remedy` is what to do before the limit."""

    name: str
    limit: float
    unit: str
    source: str
    demand: Callable[[float], Span]
    remedy: str

    def find_factor(self) -> Span:
        """Times today's spike at which demand meets the limit: with the demand at its worst, and at its best. No demand
        here falls with the rate, and each is in proportion to it."""
        now = self.demand(SPIKE_A_SECOND)
        return Span(self.limit / now.high, self.limit / now.low)


def count_l4s(rate: float) -> Span:
    """Photos a second → L4s that keep up at `UTILISATION`, not rounded."""
    return find_seconds(TFLOP["high"][0]).times(rate / UTILISATION)


def count_running(rate: float) -> Span:
    """Jobs under way at a time, if none has to wait."""
    return find_seconds(TFLOP["high"][0]).times(rate)


def count_job_writes(rate: float) -> Span:
    """Writes a second into the jobs collection, whose index on `changed_at` only grows."""
    seconds = find_seconds(TFLOP["high"][0])
    return Span(
        rate * JOB_SHARE_OF_WRITES * EDIT.plus(EDIT_SECOND, seconds.low).writes,
        rate * JOB_SHARE_OF_WRITES * EDIT.plus(EDIT_SECOND, seconds.high).writes,
    )


def count_samples(rate: float) -> Span:
    """Samples a second of the L4s' nodes, scraped every 30 s."""
    return count_l4s(rate).times(SERIES_A_NODE / 30)


def _same(per_photo: float) -> Callable[[float], Span]:
    return lambda rate: Span(rate * per_photo, rate * per_photo)


def list_resources(limits: Limits = LIMITS) -> list[Resource]:
    """In no order; `rank` puts them into one."""
    return [
        Resource("L4s", limits.l4s, "L4s", "max_replicas of FluxFill, nodes.l4_max", count_l4s,
                 "quota, then max_replicas, maxReplicas and nodes.l4_max; a faster row (8-step LoRA, fp8 arithmetic)"),
        Resource("jobs in Editors", limits.editors * SLOTS, "jobs", "max_replicas of Editor × normal slots",
                 count_running, "max_replicas of Editor, maxReplicas of group cpu, nodes.cpu_max"),
        Resource("nodes", 256, "nodes", "ranges.pods: a /16 at 110 pods a node", count_l4s,
                 "a further range for pods (additional_pod_ranges_config)"),
        Resource("claims", 44, "1/s", "measured on the emulator, 44 to 63; not on Firestore", _same(1.0),
                 "measure on Firestore first; then queues by shard"),
        Resource("writes of job documents", FIRESTORE_WRITES.value, "1/s", FIRESTORE_WRITES.where, count_job_writes,
                 "a shard number before `changed_at` and `created_at` (serve_app/jobs/firestore.py); "
                 "PAWFECT_JOBS__PROGRESS_INTERVAL_S=5 alone gives about 3 times"),
        Resource("pushes held", limits.ingresses * limits.held, "pushes",
                 f"{limits.ingresses} Ingress replicas × max_ongoing_requests", _same(HELD_S),
                 "num_replicas of Ingress"),
        Resource("push window", PUSH_WINDOW.value, "pushes", PUSH_WINDOW.where, _same(HELD_S),
                 "a pull subscription, or answering pushes once the job is stored"),
        Resource("push throughput", PUSH_BYTES.value, "kB/s", PUSH_BYTES.where, _same(LEAST_REQUEST_KB), "quota"),
        Resource("object writes", STORAGE_WRITES.value, "1/s", STORAGE_WRITES.where, _same(EDIT.class_a),
                 "none: it grows by itself within minutes; user ids spread the names"),
        Resource("object reads", STORAGE_READS.value, "1/s", STORAGE_READS.where, _same(EDIT.class_b), "the same"),
        Resource("signed links", SIGNATURES.value, "1/s", f"{SIGNATURES.where}; if every photo were a headshot",
                 _same(4.0), "quota; keep links while they last"),
        Resource("traffic of Editors", limits.cpu_pods * 2000, "MB/s",
                 f"{limits.cpu_pods} × e2-standard-8, 16 Gbit/s each", _same(2 * PHOTO_MB), "more CPU nodes"),
        Resource("metrics", SAMPLES.value, "samples/s", SAMPLES.where, count_samples, "quota of the Monitoring API"),
    ]  # fmt: skip


def rank(resources: list[Resource]) -> list[Resource]:
    """The one that is met first, first."""
    return sorted(resources, key=lambda resource: resource.find_factor().low)


def find_exceeded(factor: float, limits: Limits = LIMITS) -> list[Resource]:
    """At so many times today's spike, with demands at their worst; the one met first, first."""
    return [resource for resource in rank(list_resources(limits)) if resource.find_factor().low <= factor]


def find_longest_wait(rate: float, hours: float, l4s: int, seconds: float) -> float:
    """Seconds that the last photo of a spike waits; 0 while the L4s keep up. `rate` in photos a second, `seconds` that
    one takes on an L4."""
    backlog = (rate - l4s / seconds) * hours * 3600
    return max(0.0, backlog * seconds / l4s)
