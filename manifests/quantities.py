"""Kubernetes' quantities: cores and bytes."""

from __future__ import annotations

SUFFIXES = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
GIB = 2**30
MIB = 2**20


def read_quantity(given: str | float) -> float:
    """Cores or bytes. Raises ValueError for what is neither."""
    text = str(given)
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if text.endswith(suffix):
            return float(text.removesuffix(suffix)) * SUFFIXES[suffix]
    return float(text.removesuffix("m")) / 1000 if text.endswith("m") else float(text)
