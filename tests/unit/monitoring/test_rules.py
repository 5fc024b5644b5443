"""Alerts: what they ask exists, each fires and keeps still when it should, and leads to a section of the runbooks."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.promises import BUDGETS
from serve_app import errors
from tests.metric_names import find_wrong
from tests.promql import RULES, Rule, find_readings, read_rules

ROOT = RULES.parents[2]
CASES = sorted((RULES.parent / "tests").glob("*.yaml"))
ALERTS = [rule for rule in read_rules() if rule.is_alert]
WITHOUT_FIGURE = ("PawfectNotSeen", "PawfectStoreUnreachable", "PawfectPausedLong")
WINDOW = re.compile(r"(?<=increase)\d+[mhd]|(?<=\[)\d+[mhd](?=\])")


def test_the_rules_are_ones(promtool: str) -> None:
    answer = subprocess.run([promtool, "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_the_alerts_do_what_their_cases_say(promtool: str, case: Path) -> None:
    answer = subprocess.run([promtool, "test", "rules", case], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_every_alert_has_a_case_where_it_fires_and_one_where_it_does_not() -> None:
    seen: dict[bool, set[str]] = defaultdict(set)
    for case in CASES:
        content: dict[str, Any] = yaml.safe_load(case.read_text())
        for test in content["tests"]:
            for expected in test.get("alert_rule_test", ()):
                seen[bool(expected.get("exp_alerts"))].add(expected["alertname"])
    names = {alert.name for alert in ALERTS}
    assert seen[True] == names
    assert seen[False] == names


@pytest.mark.parametrize("rule", read_rules(), ids=lambda rule: f"{rule.name} {rule.labels.get('slo', '')}".strip())
def test_what_a_rule_asks_exists(rule: Rule) -> None:
    assert find_wrong(find_readings(rule.expression)) == []


def test_the_windows_of_a_promise_differ_in_their_length_only() -> None:
    shapes: dict[tuple[str, str], set[str]] = defaultdict(set)
    for rule in read_rules():
        if rule.name.startswith("pawfect:slo_"):
            (window,) = set(WINDOW.findall(rule.expression))
            assert rule.name.endswith(f":increase{window}")
            key = WINDOW.sub("", rule.name), rule.labels["slo"]
            shapes[key].add(WINDOW.sub("", rule.expression))
    assert {len(each) for each in shapes.values()} == {1}
    assert len(shapes) == 4, "bad and counted, of jobs and edits"


def test_alerts_and_panels_have_the_same_budgets() -> None:
    seen = []
    for alert in ALERTS:
        if budgets := set(re.findall(r"> [\d.]+ \* ([\d.]+)", alert.expression)):
            (slo,) = set(re.findall(r'slo="(\w+)"', alert.expression))
            assert budgets == {BUDGETS[slo]}
            assert f"(the budget is {float(BUDGETS[slo]) * 100:g} %)" in alert.annotations["summary"]
            seen.append(slo)
    assert sorted(seen) == ["edits", "edits", "jobs", "jobs"]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_says_how_bad_it_is_and_where_to_read_on(alert: Rule) -> None:
    assert alert.labels["severity"] in ("page", "ticket")
    assert alert.annotations["summary"].endswith(".")
    assert "{{" in alert.annotations["summary"] or alert.name in WITHOUT_FIGURE
    assert alert.annotations["runbook_url"] == f"docs/runbooks.md#{alert.name.lower()}"


def test_every_section_of_the_runbooks_has_its_alert() -> None:
    """And the other way round; a section's anchor is its title in lower case."""
    titles = re.findall(r"^### (.+)$", (ROOT / "docs" / "runbooks.md").read_text(), re.M)
    assert titles == [alert.name for alert in ALERTS]


def test_dead_letters_that_are_the_callers_fault_are_those_of_the_error_tree() -> None:
    (alert,) = [alert for alert in ALERTS if alert.name == "PawfectDeadLetters"]
    (listed,) = re.findall(r'reason!~"([^"]+)"', alert.expression)
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.PawfectError)]
    callers = {kind.code for kind in kinds if getattr(kind, "fault", None) == "caller"}
    ending = {kind.code for kind in kinds if issubclass(kind, errors.PermanentError)}
    assert set(listed.split("|")) <= callers
    assert callers & ending <= set(listed.split("|"))
