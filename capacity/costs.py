"""Dollars: of a photo's calls, of a day at a load, of a cluster that has nothing to do."""

from __future__ import annotations

import math
from dataclasses import dataclass

from capacity.facts import (
    BALANCER_HOUR,
    CLASS_A,
    CLASS_B,
    CLUSTER_HOUR,
    CPU_HOUR,
    DISK_GIB_MONTH,
    L4_HOUR,
    L4_SPOT_HOUR,
    NAT_HOUR,
    PUBSUB_TIB,
    READS,
    SAMPLES_MILLION,
    STORED_GB_MONTH,
    SYSTEM_HOUR,
    WRITES,
)
from capacity.measured import IDLE_EDITOR, IDLE_INGRESS, SERIES_A_NODE, Calls

HOURS = 24.0
DAYS_A_MONTH = 365.25 / 12
SYSTEM_NODES, CPU_NODES = 2, 2
EDITORS, INGRESSES = 1, 2
DISK_GIB = 100 * SYSTEM_NODES + 150 * CPU_NODES + 10
"""Boot disks of infra/cluster.tf, and Redis's."""
L4_DISK_GIB = 200
NAT_NODE_HOUR = 0.0014
"""Dollars that Cloud NAT takes for a node beside its address; cloud.google.com/nat/pricing."""
SCRAPES_A_DAY = 24 * 3600 / 30
REPOSITORY_GB = 34.0 + 20.0
"""Weights, and images of some versions."""
HOLD_S = 900.0 + 300.0 + 600.0
"""An L4 without work is kept for so long: zero_after_s of FluxFill, idleTimeoutSeconds of the Ray autoscaler, and
GKE's own ten minutes before a node is taken away."""


@dataclass(frozen=True, slots=True)
class Cost:
    name: str
    dollars: float
    how: str


def price_calls(calls: Calls) -> float:
    return (
        calls.reads * READS.value / 100_000
        + calls.writes * WRITES.value / 100_000
        + calls.class_a * CLASS_A.value / 1000
        + calls.class_b * CLASS_B.value / 1000
        + calls.pubsub_bytes * PUBSUB_TIB.value / 2**40
    )


def list_fixed() -> list[Cost]:
    """A day of a cluster without L4s and without work."""
    idle = Calls().plus(IDLE_EDITOR, EDITORS).plus(IDLE_INGRESS, INGRESSES)
    samples = SERIES_A_NODE * (SYSTEM_NODES + CPU_NODES) * SCRAPES_A_DAY
    nat = NAT_HOUR.value + NAT_NODE_HOUR * (SYSTEM_NODES + CPU_NODES)
    return [
        Cost(f"{CPU_NODES} CPU nodes", CPU_HOUR.value * CPU_NODES * HOURS, "group cpu, e2-standard-8"),
        Cost(f"{SYSTEM_NODES} system nodes", SYSTEM_HOUR.value * SYSTEM_NODES * HOURS, "Ray's head, Redis, operator"),
        Cost("GKE", CLUSTER_HOUR.value * HOURS, "management of a regional cluster"),
        Cost("disks", DISK_GIB * DISK_GIB_MONTH.value / DAYS_A_MONTH, f"{DISK_GIB} GiB"),
        Cost("load balancer", BALANCER_HOUR.value * HOURS, "two forwarding rules"),
        Cost("Cloud NAT", nat * HOURS, "without what goes through it"),
        Cost("metrics", samples / 1e6 * SAMPLES_MILLION.value, f"{SERIES_A_NODE} series a node, every 30 s"),
        Cost("idle reads", price_calls(idle) * HOURS, f"{idle.reads * HOURS:,.0f} Firestore reads, no free tier"),
        Cost("weights, images", REPOSITORY_GB * STORED_GB_MONTH.value / DAYS_A_MONTH, f"{REPOSITORY_GB:.0f} GB"),
    ]


def find_hours_up(photos_a_day: float, seconds: float, hold_s: float = HOLD_S) -> float:
    """Hours a day with an L4 there, for photos that come independently at an even rate and each keep it there for
    `seconds` and `hold_s` (the busy share of M/G/∞)."""
    rate = photos_a_day / (HOURS * 3600)
    return HOURS * (1 - math.exp(-rate * (seconds + hold_s)))


def find_hours_batched(photos_a_day: float, seconds: float, batches: int, hold_s: float = HOLD_S) -> float:
    """Hours a day when photos wait for one another and are done in so many batches."""
    return min(HOURS, (photos_a_day * seconds + batches * hold_s) / 3600)


def price_l4(hours: float, *, spot: bool) -> float:
    return hours * (L4_SPOT_HOUR if spot else L4_HOUR).value


def price_l4_node() -> Cost:
    """A day of an L4's node beside the machine itself."""
    disk = L4_DISK_GIB * DISK_GIB_MONTH.value / DAYS_A_MONTH
    metrics = SERIES_A_NODE * SCRAPES_A_DAY / 1e6 * SAMPLES_MILLION.value
    how = f"its disk of {L4_DISK_GIB} GiB, metrics, Cloud NAT"
    return Cost("an L4's node all day, beside the machine", disk + metrics + NAT_NODE_HOUR * HOURS, how)
