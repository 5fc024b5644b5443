"""A dashboard as the JSON that Grafana imports (https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/)."""

from __future__ import annotations

import string
import zlib
from typing import Any

from monitoring.panels import Dashboard, Kind, Panel, Row

SCHEMA_VERSION = 41  # Grafana 12; older ones take it, newer ones migrate it
COLUMNS = 24
HEIGHTS = {Kind.LINES: 8, Kind.FIGURE: 4}
MIN_INTERVAL = "5m"
"""Shortest $__rate_interval: a photo comes every few minutes, and over a shorter one most rates are of nothing."""
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
CHOICES = {"quality": "Quality", "engine": "Engine"}
"""Label of pawfect_jobs_total → what the reader sees above the dashboard."""


def render(dashboard: Dashboard) -> dict[str, Any]:
    return {
        "uid": dashboard.name,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["pawfect"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "1m",
        "time": {"from": "now-24h", "to": "now"},
        "timezone": "browser",
        "links": [
            _link("Runbooks", "${runbooks}"),
            {"title": "Pawfect", "type": "dashboards", "tags": ["pawfect"], "includeVars": True, "keepTime": True},
        ],
        "templating": {"list": [_source_variable(), *map(_choice_variable, CHOICES), _runbooks_variable()]},
        "annotations": {"list": []},
        "panels": _lay_out(dashboard.rows),
    }


def _link(title: str, url: str) -> dict[str, Any]:
    return {"title": title, "type": "link", "url": url, "targetBlank": True}


def _source_variable() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _choice_variable(name: str) -> dict[str, Any]:
    values = f"label_values(ray_pawfect_jobs_total, {name})"
    return {
        "name": name,
        "label": CHOICES[name],
        "type": "query",
        "datasource": SOURCE,
        "definition": values,
        "query": {"query": values, "refId": name},
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": ["All"], "value": ["$__all"]},
        "refresh": 2,  # when the time range changes
        "sort": 1,
    }


def _runbooks_variable() -> dict[str, Any]:
    """Where docs/runbooks.md can be read, which only the installation knows."""
    address = "docs/runbooks.md"
    return {
        "name": "runbooks",
        "label": "Runbooks",
        "type": "textbox",
        "query": address,
        "current": {"text": address, "value": address},
    }


def _lay_out(rows: tuple[Row, ...]) -> list[dict[str, Any]]:
    """Each row's title, then its panels from left to right, as many side by side as fit."""
    made: list[dict[str, Any]] = []
    top = 0
    for row in rows:
        made.append(_render_row(row, top))
        top, left, height = top + 1, 0, 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                top, left, height = top + height, 0, 0
            made.append(_render_panel(panel, left, top))
            left, height = left + panel.width, max(height, HEIGHTS[panel.kind])
        top += height
    return made


def _render_row(row: Row, top: int) -> dict[str, Any]:
    place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
    return {
        "id": _identify(row.title),
        "type": "row",
        "title": row.title,
        "collapsed": False,
        "gridPos": place,
        "panels": [],
    }


def _render_panel(panel: Panel, left: int, top: int) -> dict[str, Any]:
    is_figure = panel.kind is Kind.FIGURE
    defaults: dict[str, Any] = {"unit": panel.unit.value}
    if not is_figure:
        defaults["custom"] = {"fillOpacity": 10, "axisSoftMin": 0}
    return {
        "id": _identify(panel.title),
        "type": panel.kind.value,
        "title": panel.title,
        "description": panel.advice,
        "datasource": SOURCE,
        "interval": MIN_INTERVAL,
        "gridPos": {"x": left, "y": top, "w": panel.width, "h": HEIGHTS[panel.kind]},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {} if is_figure else {"legend": {"displayMode": "list", "placement": "bottom"}},
        "links": [_link("Runbooks", "${runbooks}")],
        "targets": [
            {
                "refId": letter,
                "datasource": SOURCE,
                "expr": query.expression,
                "legendFormat": query.legend or panel.title,
                "instant": is_figure,
                "range": not is_figure,
            }
            for letter, query in zip(string.ascii_uppercase, panel.queries, strict=False)
        ],
    }


def _identify(title: str) -> int:
    """A panel's id, which links to it contain: from its title, so that panels can come, go and move."""
    return zlib.crc32(title.encode()) % 1_000_000 + 1
