"""Demand and limits, against numbers worked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from capacity import loads
from capacity.limits import LIMITS, Limits
from capacity.measured import EDIT, EDIT_SECOND, Calls
from capacity.pages import PAGE
from capacity.photos import TFLOP, Span, find_seconds
from capacity.tables import write_spike

ROOT = PAGE.parent.parent
FOUR = Limits(l4s=4, editors=4, cpu_pods=4, ingresses=2, held=4096)
"""Whatever is configured today."""


def get(name: str, limits: Limits = FOUR) -> loads.Resource:
    return next(each for each in loads.list_resources(limits) if each.name == name)


def test_todays_spike_keeps_less_than_one_l4_busy() -> None:
    """100 an hour of 13.1 to 26.3 s are 0.36 to 0.73 of an L4, at 80 % of it 0.46 to 0.91."""
    l4s = loads.count_l4s(100 / 3600)
    assert (round(l4s.low, 2), round(l4s.high, 2)) == (0.46, 0.91)


def test_a_limit_is_met_where_demand_equals_it() -> None:
    resource = loads.Resource("r", 50, "", "", lambda rate: Span(rate * 36, rate * 72), "")
    assert resource.find_factor() == Span(pytest.approx(25), pytest.approx(50))  # 1 and 2 of 50 are asked for today


@pytest.mark.parametrize("name", [each.name for each in loads.list_resources(FOUR)])
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
    names = [each.name for each in loads.find_exceeded(factor, FOUR)]
    assert (names[0] if names else None) == first
    assert also <= set(names[1:])
    assert "object writes" not in names


def test_the_longest_wait_of_a_spike() -> None:
    """1,000 in an hour, four L4s of 26 s each do 553.8: 446.2 are left, and those take four L4s 48 minutes."""
    assert loads.find_longest_wait(1000 / 3600, 1.0, 4, 26.0) == pytest.approx(446.15 * 26 / 4, rel=1e-4)
    assert loads.find_longest_wait(100 / 3600, 1.0, 4, 26.0) == 0


def test_what_the_page_says_of_four_l4s_in_a_spike() -> None:
    """3,600 s ÷ 26.3 and 13.1 s of a photo, times four; of 1,000 photos the rest is left, 26.3 s ÷ 4 apart."""
    seconds = find_seconds(TFLOP["high"][0])
    slow, fast = (4 * 3600 / each for each in (seconds.high, seconds.low))
    last = loads.find_longest_wait(1000 / 3600, 1.0, 4, seconds.high) / 60
    said = write_spike(4)
    assert f"They do {round(slow, -1):.0f} to {round(fast, -2):,.0f} photos an hour." in said
    assert f"leaves at most {round(1000 - slow, -1):.0f} waiting, the last of them for {last:.0f} minutes;" in said
    assert f"leave {round(2 * (1000 - slow), -1):.0f}, the last for {2 * last:.0f}." in said


def test_twice_as_many_l4s_keep_up_with_it() -> None:
    assert write_spike(8).endswith(
        "They do 1,100 to 2,200 photos an hour, which keeps up with 10 times today's spike.\n"
    )


def test_progress_at_longer_intervals_saves_two_writes_of_three() -> None:
    """Every 5 s instead of every second, of a photo's 13.1 to 26.3 s."""
    rarely = replace(EDIT_SECOND, writes=EDIT_SECOND.writes / 5)
    seconds = find_seconds(TFLOP["high"][0])
    times = [
        EDIT.plus(EDIT_SECOND, each).writes / EDIT.plus(rarely, each).writes for each in (seconds.low, seconds.high)
    ]
    assert [round(each, 1) for each in times] == [2.7, 3.4]
    assert get("writes of job documents").remedy.endswith("PROGRESS_INTERVAL_S=5 alone gives about 3 times")


def test_limits_of_ours_are_those_of_the_configuration() -> None:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())["applications"][0]
    most = {
        each["name"]: each["autoscaling_config"]["max_replicas"]
        for each in config["deployments"]
        if "autoscaling_config" in each
    }
    overrides = yaml.safe_load((ROOT / "k8s/overlays/gke-l4/serve_overrides.yaml").read_text())["deployments"]
    ingress = next(each for each in config["deployments"] if each["name"] == "Ingress")
    assert get("L4s", LIMITS).limit == most["FluxFill"]
    assert get("jobs in Editors", LIMITS).limit == most["Editor"] * loads.SLOTS
    held = get("pushes held", LIMITS)
    assert held.limit == overrides["Ingress"]["num_replicas"] * ingress["max_ongoing_requests"]
    assert held.source.startswith(f"{overrides['Ingress']['num_replicas']} Ingress replicas")
    rules = config["autoscaling_policy"]["policy_kwargs"]["deployments"]["FluxFill"]
    assert rules["utilisation"] == loads.UTILISATION


def test_calls_add_up() -> None:
    assert Calls(reads=1, writes=2).plus(Calls(reads=3, class_a=1), 2) == Calls(reads=7, writes=2, class_a=2)
