"""The machines of the node pools, and what GKE leaves of one for pods."""

from __future__ import annotations

from typing import NamedTuple

from manifests.quantities import GIB, MIB


class Machine(NamedTuple):
    cpus: int
    memory_gib: int


MACHINES = {
    "e2-standard-2": Machine(2, 8),
    "e2-standard-4": Machine(4, 16),
    "e2-standard-8": Machine(8, 32),
    "e2-standard-16": Machine(16, 64),
    "e2-highmem-2": Machine(2, 16),
    "e2-highmem-4": Machine(4, 32),
    "e2-highmem-8": Machine(8, 64),
    "n2-standard-8": Machine(8, 32),
    "g2-standard-4": Machine(4, 16),
    "g2-standard-8": Machine(8, 32),
    "g2-standard-12": Machine(12, 48),
    "g2-standard-16": Machine(16, 64),
}
"""Compute Engine's types: https://cloud.google.com/compute/docs/machine-resource. A g2 up to 16 has one L4."""

POOLS = {
    "system": "e2-standard-4",
    "cpu": "e2-standard-8",
    "weights": "e2-highmem-8",
    "l4": "g2-standard-8",
    "l4-spot": "g2-standard-8",
}
"""Node pool (label pawfect.dev/pool) → machine type, as infra/ makes them."""

Tiers = tuple[tuple[float, float], ...]
CPU_TIERS: Tiers = ((1, 0.06), (1, 0.01), (2, 0.005), (float("inf"), 0.0025))
MEMORY_TIERS: Tiers = ((4, 0.25), (4, 0.20), (8, 0.10), (112, 0.06), (float("inf"), 0.02))
"""Cores and GiB, and the share of them that GKE keeps for the node:
https://cloud.google.com/kubernetes-engine/docs/concepts/plan-node-sizes."""
STREAMING_TIERS: Tiers = ((4, 0.10), (4, 0.08), (8, 0.04), (112, 0.024), (float("inf"), 0.008))
"""The same for image streaming: https://cloud.google.com/kubernetes-engine/docs/how-to/image-streaming."""
EVICTION_BYTES = 100 * MIB
SYSTEM_CPUS = 0.5
SYSTEM_BYTES = 1 * GIB
"""What GKE's own DaemonSets (logs, metrics, disks, DNS, GPU driver) ask for on each node, and what the kernel keeps of
the machine's memory. Ours, with a margin: GKE publishes no number; of 16 GiB 12.9 are left, 13.3 are computed."""


def count_cpus(machine: Machine) -> float:
    """Cores that pods may ask for."""
    return machine.cpus - _sum_tiers(machine.cpus, CPU_TIERS) - SYSTEM_CPUS


def count_bytes(machine: Machine) -> float:
    """Bytes that pods may ask for."""
    kept = _sum_tiers(machine.memory_gib, MEMORY_TIERS) + _sum_tiers(machine.memory_gib, STREAMING_TIERS)
    return (machine.memory_gib - kept) * GIB - EVICTION_BYTES - SYSTEM_BYTES


def _sum_tiers(amount: float, tiers: Tiers) -> float:
    kept = 0.0
    for size, share in tiers:
        part = min(amount, size)
        kept += part * share
        amount -= part
    return kept
