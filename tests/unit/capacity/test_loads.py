"""Demand and limits, against numbers worked by hand."""

from __future__ import annotations

import pytest
import yaml

from capacity import loads
from capacity.measured import EDIT, EDIT_SECOND, Calls
from capacity.pages import PAGE
from capacity.photos import TFLOP, Span, find_seconds

ROOT = PAGE.parent.parent


def get(name: str) -> loads.Resource:
    return next(each for each in loads.list_resources() if each.name == name)


def test_todays_spike_keeps_less_than_one_l4_busy() -> None:
    """100 an hour of 13.1 to 26.3 s are 0.36 to 0.73 of an L4, at 80 % of it 0.46 to 0.91."""
    l4s = loads.count_l4s(100 / 3600)
    assert (round(l4s.low, 2), round(l4s.high, 2)) == (0.46, 0.91)


def test_a_limit_is_met_where_demand_equals_it() -> None:
    resource = loads.Resource("r", 50, "", "", lambda rate: Span(rate * 36, rate * 72), "")
    assert resource.find_factor() == Span(pytest.approx(25), pytest.approx(50))  # 1 and 2 of 50 are asked for today


@pytest.mark.parametrize("name", [each.name for each in loads.list_resources()])
def test_each_demand_grows_in_proportion(name: str) -> None:
    demand = get(name).demand
    assert demand(2.0).low == pytest.approx(200 * demand(0.01).low)
    assert demand(2.0).high == pytest.approx(200 * demand(0.01).high)


def test_a_photo_writes_its_job_document_for_as_long_as_it_runs() -> None:
    """Half of (6.1 + 1.75 a second) for 13.1 to 26.3 s: 14.5 to 26.1 writes."""
    writes = loads.count_job_writes(1.0)
    assert (round(writes.low, 1), round(writes.high, 1)) == (14.5, 26.0)
    assert writes.low < EDIT.writes + EDIT_SECOND.writes * 13.1


@pytest.mark.parametrize(
    ("factor", "first", "also"),
    [
        (1, None, set()),
        (10, "L4s", set()),
        (100, "L4s", {"jobs in Editors"}),
        (10_000, "L4s", {"writes of job documents", "claims", "push window", "pushes held", "nodes"}),
    ],
)
def test_what_is_met_first(factor: float, first: str | None, also: set[str]) -> None:
    names = [each.name for each in loads.find_exceeded(factor)]
    assert (names[0] if names else None) == first
    assert also <= set(names[1:])
    assert "object writes" not in names


def test_the_longest_wait_of_a_spike() -> None:
    """1,000 in an hour, four L4s of 26 s each do 553.8: 446.2 are left, and those take four L4s 48 minutes."""
    assert loads.find_longest_wait(1000 / 3600, 1.0, 4, 26.0) == pytest.approx(446.15 * 26 / 4, rel=1e-4)
    assert loads.find_longest_wait(100 / 3600, 1.0, 4, 26.0) == 0


def test_what_the_page_says_of_four_l4s_in_a_spike() -> None:
    seconds = find_seconds(TFLOP["high"][0])
    slow, fast = (4 * 3600 / each for each in (seconds.high, seconds.low))
    waiting = 1000 - slow
    last = loads.find_longest_wait(1000 / 3600, 1.0, 4, seconds.high) / 60
    said = f"{round(slow, -1):.0f} to {round(fast, -2):,.0f} photos an hour"
    text = " ".join(PAGE.read_text().split())
    assert said in text
    assert f"leaves {round(waiting, -1):.0f} waiting at most, the last of them for {last:.0f} minutes" in text


def test_limits_of_ours_are_those_of_the_configuration() -> None:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())["applications"][0]
    most = {
        each["name"]: each["autoscaling_config"]["max_replicas"]
        for each in config["deployments"]
        if "autoscaling_config" in each
    }
    overrides = yaml.safe_load((ROOT / "k8s/overlays/gke-l4/serve_overrides.yaml").read_text())["deployments"]
    ingress = next(each for each in config["deployments"] if each["name"] == "Ingress")
    assert get("L4s").limit == most["FluxFill"]
    assert get("jobs in Editors").limit == most["Editor"] * loads.SLOTS
    assert get("pushes held").limit == overrides["Ingress"]["num_replicas"] * ingress["max_ongoing_requests"]
    rules = config["autoscaling_policy"]["policy_kwargs"]["deployments"]["FluxFill"]
    assert rules["utilisation"] == loads.UTILISATION


def test_calls_add_up() -> None:
    assert Calls(reads=1, writes=2).plus(Calls(reads=3, class_a=1), 2) == Calls(reads=7, writes=2, class_a=2)
