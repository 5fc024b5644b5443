"""Figures out of a page of Prometheus metrics."""

from __future__ import annotations

import re
from collections import defaultdict

_LINE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')


def sum_by(page: str, metric: str, label: str, **wanted: str) -> dict[str, float]:
    """The metric's series with the `wanted` labels, added up by the value of one other label."""
    sums: defaultdict[str, float] = defaultdict(float)
    for line in page.splitlines():
        if line.startswith(metric) and (match := _LINE.match(line)) and match[1] == metric:
            labels = dict(_LABEL.findall(match[2] or ""))
            if all(labels.get(name) == value for name, value in wanted.items()):
                sums[labels.get(label, "")] += float(match[3])
    return dict(sums)


def count_series(page: str) -> int:
    return sum(1 for line in page.splitlines() if line and not line.startswith("#"))
