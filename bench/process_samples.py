"""What the processes of a running service hold, by what they do: memory, descriptors, threads."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil

ROLES = (
    ("Ingress", r"ServeReplica:pawfect:Ingress"),
    ("Editor", r"ServeReplica:pawfect:Editor"),
    ("Draft", r"ServeReplica:pawfect:Draft"),
    ("Headshots", r"ServeReplica:pawfect:Headshots"),
    ("controller", r"ServeController"),
    ("proxy", r"ProxyActor"),
    ("raylet", r"/raylet\b"),
    ("gcs", r"gcs_server"),
    ("agents", r"dashboard|agent"),
    ("pawfect", r"pawfect serve"),
)
"""A role and how its processes' command lines are told; the first that fits counts. Idle workers come and go as Ray
pleases and are left out."""


@dataclass(frozen=True, slots=True)
class Holding:
    """All processes of a role together. `rss_mb` in MiB."""

    processes: int = 0
    rss_mb: float = 0.0
    descriptors: int = 0
    threads: int = 0

    def __add__(self, other: Holding) -> Holding:
        return Holding(
            self.processes + other.processes,
            self.rss_mb + other.rss_mb,
            self.descriptors + other.descriptors,
            self.threads + other.threads,
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """`at` is a Unix time, `series` the lines of the metrics page, `figures` what else is worth a look."""

    at: float
    roles: dict[str, Holding]
    series: int
    figures: dict[str, float] = field(default_factory=dict)


def read_holdings(pid: int) -> dict[str, Holding]:
    """Of a process and all that came of it."""
    found: defaultdict[str, Holding] = defaultdict(Holding)
    service = psutil.Process(pid)
    for process in (service, *service.children(recursive=True)):
        try:
            role = find_role(" ".join(process.cmdline()))
            if role is not None:
                found[role] += _read(process)
        except psutil.Error:  # it has just ended
            continue
    return dict(found)


def _read(process: psutil.Process) -> Holding:
    with process.oneshot():
        return Holding(1, process.memory_info().rss / 2**20, process.num_fds(), process.num_threads())


def find_role(command: str) -> str | None:
    return next((role for role, pattern in ROLES if re.search(pattern, command)), None)


def fit_growth(samples: Sequence[Sample], values: Sequence[float]) -> float:
    """Growth per hour of a straight line through the values (least squares)."""
    times = [sample.at - samples[0].at for sample in samples]
    middle_t, middle_v = sum(times) / len(times), sum(values) / len(values)
    spread = sum((each - middle_t) ** 2 for each in times)
    slope = sum((t - middle_t) * (v - middle_v) for t, v in zip(times, values, strict=True)) / spread
    return slope * 3600


def take_sample(pid: int, page: str, figures: dict[str, float]) -> Sample:
    """`page` is what the metrics port shows."""
    series = sum(1 for line in page.splitlines() if line and not line.startswith("#"))
    return Sample(time.time(), read_holdings(pid), series, figures)
