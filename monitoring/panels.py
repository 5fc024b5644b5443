"""What a dashboard is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

CHOSEN = 'quality=~"$quality", engine=~"$engine"'
"""Matchers for what the reader has chosen above the dashboard."""


class Kind(Enum):
    LINES = "timeseries"
    FIGURE = "stat"


class Unit(Enum):
    """Grafana's names of units."""

    COUNT = "short"
    SECONDS = "s"
    MILLISECONDS = "ms"
    SHARE = "percentunit"
    PERCENT = "percent"
    BYTES = "bytes"
    MEBIBYTES = "decmbytes"
    PER_MINUTE = "cpm"
    DOLLARS = "currencyUSD"


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL, and the legend of its lines with labels as {{label}}."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """`advice` says what to do when it looks bad. `width` is in Grafana's columns, of which a row has 24."""

    title: str
    unit: Unit
    queries: tuple[Query, ...]
    advice: str
    width: int = 8
    kind: Kind = Kind.LINES


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """`name` is its file and its uid: never to be changed, links lead to it."""

    name: str
    title: str
    description: str
    rows: tuple[Row, ...]

    def panels(self) -> Iterator[Panel]:
        for row in self.rows:
            yield from row.panels


def quantiles(buckets: str, by: str, *wanted: float) -> tuple[Query, ...]:
    """One query per quantile of a histogram, in its own unit; `buckets` is the selector of its buckets."""
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", ")) if by else ""
    return tuple(
        Query(
            f"histogram_quantile({each}, sum by ({', '.join(('le', by)) if by else 'le'}) "
            f"(rate({buckets}[$__rate_interval])))",
            f"{legend} p{each * 100:g}".strip(),
        )
        for each in wanted
    )
