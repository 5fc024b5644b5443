"""Dollars, against sums done by hand."""

from __future__ import annotations

import math

import pytest
import yaml

from capacity import cold_start, costs
from capacity.measured import Calls
from capacity.pages import PAGE
from capacity.photos import Span
from capacity.tables import write_day
from serve_app.settings_sections import JobSettings

ROOT = PAGE.parent.parent


def test_a_million_calls_of_each_kind() -> None:
    """$0.60 for 10⁶ reads, $1.80 for writes, $5 for class A, $0.40 for class B, $40 for a TiB of messages."""
    million = 1_000_000
    assert costs.price_calls(Calls(reads=million)) == pytest.approx(0.60)
    assert costs.price_calls(Calls(writes=million)) == pytest.approx(1.80)
    assert costs.price_calls(Calls(class_a=million)) == pytest.approx(5.00)
    assert costs.price_calls(Calls(class_b=million)) == pytest.approx(0.40)
    assert costs.price_calls(Calls(pubsub_bytes=2**40)) == pytest.approx(40.00)
    assert costs.price_calls(Calls(bytes_in=1e12, bytes_out=1e12)) == 0  # within the region


def test_photos_every_three_minutes_keep_an_l4_all_day() -> None:
    """One a day keeps it for 30 minutes and its own time; 500 leave a gap of that length one time in 37,000."""
    assert costs.find_hours_up(1, 0, hold_s=1800) == pytest.approx(24 * (1 - math.exp(-1 / 48)))
    assert costs.find_hours_up(500, 20, hold_s=1800) > 23.99


def test_photos_that_wait_for_each_other_pay_for_the_hold_once() -> None:
    """500 × 18 s and two holds of half an hour: 2.5 and 1 hours."""
    assert costs.find_hours_batched(500, 18, 2, hold_s=1800) == pytest.approx(3.5)
    assert costs.find_hours_batched(50_000, 18, 2, hold_s=1800) == 24


def test_two_cpu_nodes_are_most_of_what_an_idle_cluster_costs() -> None:
    fixed = {cost.name: cost.dollars for cost in costs.list_fixed()}
    assert fixed["GKE"] == pytest.approx(2.40)
    assert fixed["load balancer"] == pytest.approx(0.60)
    assert fixed["2 CPU nodes"] == pytest.approx(2 * 2 * 0.13402 * 1.1263 * 24)
    assert fixed["2 CPU nodes"] > sum(fixed.values()) / 2


def test_an_l4_of_an_hour() -> None:
    assert costs.price_l4(2, spot=False) == pytest.approx(2 * (2 * 0.14631 + 0.55821))
    assert costs.price_l4(2, spot=True) == pytest.approx(2 * (2 * 0.05851 + 0.2233))


def test_an_l4s_node_has_a_disk_of_its_own_and_is_scraped() -> None:
    """200 GiB at $0.11 a month, 900 series every 30 s at $0.06 a million, $0.0014 an hour for its NAT."""
    node = costs.price_l4_node()
    assert node.dollars == pytest.approx(200 * 0.11 * 12 / 365.25 + 900 * 2880 * 0.06 / 1e6 + 24 * 0.0014)
    assert f"disk_gb = {costs.L4_DISK_GIB}, gpu = true" in (ROOT / "infra/cluster.tf").read_text()


def test_an_l4_all_day_costs_its_node_too() -> None:
    """The rows of the page add up: without L4s, the node beside the machine, 24 hours of the machine."""
    cells = {
        row[1].strip(" *"): row[-2].strip(" *")
        for row in (line.split("|") for line in write_day().splitlines() if line)
    }
    without, node = (float(cells[name]) for name in ("together**, without L4s", costs.price_l4_node().name))
    for name, spot in (("Spot", True), ("on demand", False)):
        total = float(cells[f"together**, with one L4 all day, {name}"])
        assert total == pytest.approx(without + node + costs.price_l4(24, spot=spot), abs=0.02)  # each is rounded


def test_the_hold_is_what_is_configured() -> None:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())["applications"][0]
    zero_after_s = config["autoscaling_policy"]["policy_kwargs"]["deployments"]["FluxFill"]["zero_after_s"]
    service = yaml.safe_load((ROOT / "k8s/base/rayservice.yaml").read_text())["spec"]["rayClusterConfig"]
    idle_s = service["autoscalerOptions"]["idleTimeoutSeconds"]
    assert zero_after_s + idle_s + 600 == costs.HOLD_S
    wait = next(each for each in service["autoscalerOptions"]["env"] if each["name"].endswith("STATUS_TIMEOUT_S"))
    assert float(wait["value"]) == cold_start.SPOT_FALLBACK_S


def test_the_cold_start_is_the_sum_of_its_steps() -> None:
    steps = [cold_start.Step("a", Span(1, 2), ""), cold_start.Step("b", Span(3, 5), "")]
    assert cold_start.add_up(steps) == Span(4, 7)
    total = cold_start.add_up(cold_start.list_steps())
    assert total.high < cold_start.PUSH_S  # what the page says; without a Spot L4 it does not fit
    jobs = JobSettings()
    assert jobs.push_wait_s == cold_start.PUSH_S
    assert cold_start.PUSH_S < total.low + cold_start.SPOT_FALLBACK_S < jobs.deadline_s


def test_the_weights_pass_the_boot_disk() -> None:
    """12.17 GB at 140 MB/s and 0.28 for each of 200 GiB: 196 MB/s, 62 s."""
    assert round(cold_start.read_weights().high) == 62
