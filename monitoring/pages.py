"""The dashboards' files."""

from __future__ import annotations

import json
from pathlib import Path

from monitoring.capacity import CAPACITY
from monitoring.grafana import render
from monitoring.service import SERVICE

FOLDER = Path(__file__).resolve().parent.parent / "k8s" / "dashboards"
DASHBOARDS = (SERVICE, CAPACITY)


def make_pages() -> dict[Path, str]:
    return {
        FOLDER / f"{dashboard.name}.json": json.dumps(render(dashboard), indent=2, ensure_ascii=False) + "\n"
        for dashboard in DASHBOARDS
    }


def find_stale(pages: dict[Path, str]) -> list[Path]:
    """Files that are not as they would be written, and those of dashboards that are no more."""
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text() != text]
    return stale + sorted(set(FOLDER.glob("*.json")) - set(pages))
