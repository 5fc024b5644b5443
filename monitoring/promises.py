"""Rows about what is promised: shares of good jobs, and how long they take."""

from __future__ import annotations

from monitoring.panels import CHOSEN, Kind, Panel, Query, Row, Unit, quantiles

BUDGETS = {"jobs": "0.005", "edits": "0.05"}
"""SLO → share of jobs that may be bad: the alerts' own numbers."""
DONE = f'ray_pawfect_end_to_end_seconds_bucket{{outcome="completed", {CHOSEN}}}'
STAGES = f"ray_pawfect_stage_seconds_bucket{{{CHOSEN}}}"


def _budget_left(slo: str) -> Query:
    """Of 30 days. Nothing counted means nothing spent."""
    bad, counted = (
        f'sum(sum_over_time(pawfect:slo_{what}:increase5m{{slo="{slo}"}}[30d:5m]))' for what in ("bad", "counted")
    )
    return Query(f"1 - ({bad} / ({counted} > 0) or vector(0)) / {BUDGETS[slo]}")


def _burn(slo: str) -> tuple[Query, ...]:
    return tuple(
        Query(
            f'sum(pawfect:slo_bad:increase{window}{{slo="{slo}"}} '
            f'/ (pawfect:slo_counted:increase{window}{{slo="{slo}"}} > 0)) / {BUDGETS[slo]} or vector(0)',
            f"{slo}, {window}",
        )
        for window in ("1h", "6h", "3d")
    )


PROMISES = Row(
    "Promises",
    (
        Panel(
            "Alerts firing",
            Unit.COUNT,
            (Query('count(ALERTS{alertname=~"Pawfect.+", alertstate="firing"}) or vector(0)'),),
            "Each alert has a section in the runbooks, which the link above leads to.",
            width=4,
            kind=Kind.FIGURE,
        ),
        Panel(
            "Consumption paused",
            Unit.COUNT,
            (Query("pawfect:paused:max"),),
            "1 means that an operator paused it: `pawfect controls` says who and why, `pawfect resume` ends it.",
            width=4,
            kind=Kind.FIGURE,
        ),
        Panel(
            "Jobs that end without our fault: budget left of 30 days",
            Unit.SHARE,
            (_budget_left("jobs"),),
            "99.5 % is the promise. Below 25 %, no risky change before the cause in 'What went wrong' is gone.",
            width=8,
            kind=Kind.FIGURE,
        ),
        Panel(
            "Session edits within 60 s, warm: budget left of 30 days",
            Unit.SHARE,
            (_budget_left("edits"),),
            "95 % is the promise. Below 25 %, look at the stages: a long queue wants replicas.",
            width=8,
            kind=Kind.FIGURE,
        ),
        Panel(
            "Burn rate: 1 spends the budget in just 30 days",
            Unit.COUNT,
            (*_burn("jobs"), *_burn("edits")),
            "14.4 over an hour or 6 over six hours wakes somebody. Compare with the time of the last deployment.",
            width=24,
        ),
    ),
)
LATENCY = Row(
    "Latency",
    (
        Panel(
            "From publish to the end, completed jobs",
            Unit.SECONDS,
            quantiles(DONE, "quality, engine", 0.5, 0.95, 0.99),
            "Which stage grows? Queue: scale the engine. Engine: the other dashboard. Download, upload: the bucket.",
            width=16,
        ),
        Panel(
            "The same by how the engine was met",
            Unit.SECONDS,
            quantiles(DONE, "start", 0.5, 0.95),
            "Cold starts too slow for the app: keep one replica with `pawfect scale FluxFill --floor 1`.",
        ),
        *(
            Panel(
                f"By stage, p{share * 100:g}",
                Unit.SECONDS,
                quantiles(STAGES, "stage", share),
                "The stage on top is where the time goes; the qualities and engines chosen above apply.",
            )
            for share in (0.5, 0.95, 0.99)
        ),
    ),
)
