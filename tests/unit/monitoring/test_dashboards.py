"""The dashboards: what they ask exists, what Grafana gets is whole, and their files are up to date."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from monitoring import __main__ as command
from monitoring import pages
from monitoring.grafana import COLUMNS, render
from monitoring.panels import Dashboard, Panel, Query, quantiles
from tests.metric_names import find_wrong
from tests.promql import Reading, fill_in, find_readings, read_rules

PANELS = [
    pytest.param(panel, id=f"{dashboard.name}: {panel.title}")
    for dashboard in pages.DASHBOARDS
    for panel in dashboard.panels()
]
QUERIES = [
    pytest.param(query, id=f"{dashboard.name}: {panel.title} {query.legend}")
    for dashboard in pages.DASHBOARDS
    for panel in dashboard.panels()
    for query in panel.queries
]
MISTAKEN_SUM = re.compile(r"_sum\b")


@pytest.mark.parametrize("query", QUERIES)
def test_what_a_panel_asks_exists(query: Query) -> None:
    """It parses, and every metric has the labels it is selected and grouped by."""
    readings = find_readings(query.expression)
    assert readings
    assert find_wrong(readings) == []


@pytest.mark.parametrize("query", QUERIES)
def test_a_panel_takes_no_mean_of_a_histogram(query: Query) -> None:
    assert not [each.metric for each in find_readings(query.expression) if MISTAKEN_SUM.search(each.metric)]


@pytest.mark.parametrize("query", QUERIES)
def test_a_gauge_is_read_over_a_while(query: Query) -> None:
    """Ray drops one that was not set for two report intervals, so a bare one flickers."""
    gauges = {rule.name for rule in read_rules()}
    for reading in find_readings(query.expression):
        is_ours = reading.metric in gauges or reading.metric == "ALERTS" or reading.metric.startswith("pubsub")
        is_counted = reading.metric.endswith(("_bucket", "_total"))
        assert is_ours or is_counted or re.search(rf"last_over_time\({reading.metric}[{{\[]", query.expression)


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_says_what_to_do(panel: Panel) -> None:
    assert panel.advice.endswith(".")
    assert len(panel.advice) >= 40
    assert 0 < panel.width <= COLUMNS
    assert len(panel.queries) == 1 or all(query.legend for query in panel.queries), "which line is which?"


def test_a_metric_or_label_that_is_not_there_is_found() -> None:
    assert find_wrong(find_readings("sum by (qualty) (rate(ray_pawfect_jobs_total[5m]))")) == [
        Reading("ray_pawfect_jobs_total", frozenset({"qualty"}))
    ]
    assert find_wrong(find_readings('ray_pawfect_jobs_totl{quality="low"}'))
    assert find_wrong(find_readings("pawfect:jobs_queued:max unless on (deployment) pawfect:engines_ready:sum"))
    assert not find_wrong(find_readings("pawfect:backlog_seconds:max unless on (deployment) pawfect:engines_ready:sum"))
    with pytest.raises(ValueError, match="unexpected character"):
        find_readings("sum(rate($unknown[5m]))")


def test_quantiles_group_by_bucket_and_label() -> None:
    assert quantiles("x_bucket", "engine, work", 0.5, 0.95) == (
        Query(
            "histogram_quantile(0.5, sum by (le, engine, work) (rate(x_bucket[$__rate_interval])))",
            "{{engine}} {{work}} p50",
        ),
        Query(
            "histogram_quantile(0.95, sum by (le, engine, work) (rate(x_bucket[$__rate_interval])))",
            "{{engine}} {{work}} p95",
        ),
    )


@pytest.mark.parametrize("dashboard", pages.DASHBOARDS, ids=lambda each: each.name)
def test_what_grafana_gets_is_whole(dashboard: Dashboard) -> None:
    page = render(dashboard)
    assert page["uid"] == dashboard.name
    assert len(page["uid"]) <= 40, "Grafana's limit"
    assert [each["name"] for each in page["templating"]["list"]] == ["datasource", "quality", "engine", "runbooks"]
    ids = [panel["id"] for panel in page["panels"]]
    assert len(set(ids)) == len(ids)
    assert {panel["datasource"]["uid"] for panel in page["panels"] if panel["type"] != "row"} == {"${datasource}"}
    known = {"datasource", "runbooks", "quality", "engine", "__rate_interval"}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(page["panels"]))) <= known
    assert len([panel for panel in page["panels"] if panel["type"] != "row"]) == len(list(dashboard.panels()))


@pytest.mark.parametrize("dashboard", pages.DASHBOARDS, ids=lambda each: each.name)
def test_no_panel_lies_on_another(dashboard: Dashboard) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in render(dashboard)["panels"]:
        place: dict[str, Any] = panel["gridPos"]
        cells = set(
            itertools.product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"]))
        )
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < COLUMNS
        taken |= cells


def test_a_panel_keeps_its_id_when_others_move() -> None:
    service = pages.DASHBOARDS[0]
    moved = Dashboard(service.name, service.title, service.description, service.rows[::-1])
    assert {each["title"]: each["id"] for each in render(service)["panels"]} == {
        each["title"]: each["id"] for each in render(moved)["panels"]
    }


@pytest.mark.parametrize(
    ("slo", "bad", "counted", "left"),
    [("jobs", 0.25, 100, 0.5), ("edits", 0.25, 10, 0.5), ("jobs", 0, 0, 1), ("jobs", 1, 100, -1)],
)
def test_what_is_left_of_a_budget(
    promtool: str, tmp_path: Path, slo: str, bad: float, counted: float, left: float
) -> None:
    """Jobs in 5 minutes, every 5 minutes. A day stands for the month: promtool takes no more than 10,000 samples."""
    title = {"jobs": "Jobs that end without our fault", "edits": "Session edits within 60 s, warm"}[slo]
    (panel,) = [each for each in pages.DASHBOARDS[0].panels() if each.title.startswith(f"{title}: budget left")]
    expression = panel.queries[0].expression
    assert expression.count("[30d:5m]") == 2
    test = {
        "interval": "5m",
        "input_series": [
            {"series": f'pawfect:slo_{name}:increase5m{{slo="{slo}"}}', "values": f"{value}x288"}
            for name, value in (("bad", bad), ("counted", counted))
        ],
        "promql_expr_test": [
            {
                "expr": expression.replace("[30d:5m]", "[1d:5m]"),
                "eval_time": "1d",
                "exp_samples": [{"labels": "{}", "value": left}],
            }
        ],
    }
    case = tmp_path / "budget.yaml"
    case.write_text(json.dumps({"tests": [test]}))
    answer = subprocess.run([promtool, "test", "rules", case], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_variables_are_filled_in() -> None:
    assert fill_in('x{quality=~"$quality"}[$__rate_interval]', __rate_interval="30s") == 'x{quality=~".*"}[30s]'


def test_the_files_are_up_to_date() -> None:
    assert pages.find_stale(pages.make_pages()) == [], "run python -m monitoring"


def test_a_stale_file_is_found_and_written(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (pages, command):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    (tmp_path / "gone.json").write_text("{}")
    monkeypatch.setattr("sys.argv", ["monitoring", "--check"])
    assert command.main() == 1
    assert "gone.json" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["gone.json"]
    monkeypatch.setattr("sys.argv", ["monitoring"])
    assert command.main() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pawfect-engines.json", "pawfect-service.json"]
    monkeypatch.setattr("sys.argv", ["monitoring", "--check"])
    assert command.main() == 0
