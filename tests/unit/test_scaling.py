"""How many replicas the work takes, and when fewer are enough."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.scaling import Decision, Demand, Rules, count_editors, decide, estimate

RULES = Rules(target_wait_s=30, utilisation=0.8, down_after_s=300, zero_after_s=900)


@pytest.mark.parametrize(
    ("demand", "wanted"),
    [
        (Demand(), 0.0),
        (Demand(jobs=10, backlog_s=60), 2.0),
        (Demand(jobs=10, backlog_s=75), 2.5),
        (Demand(jobs=1, backlog_s=600), 1.0),  # one long job is not done sooner by twenty replicas
        (Demand(jobs=0, backlog_s=0, busy=2.0), 2.5),  # nothing waits, but what comes keeps two busy
        (Demand(jobs=10, backlog_s=300, busy=1.0), 10.0),
    ],
)
def test_the_work_says_how_many(demand: Demand, wanted: float) -> None:
    assert estimate(demand, RULES) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("demand", "target", "replicas"),
    [
        (Demand(), 0, 0),
        (Demand(jobs=1, backlog_s=0.1), 0, 1),  # the smallest job wakes one
        (Demand(jobs=10, backlog_s=75), 1, 3),  # all at once
        (Demand(jobs=10, backlog_s=61), 2, 2),  # 2.03: not worth a start
        (Demand(jobs=10, backlog_s=64), 2, 3),
    ],
)
def test_more_is_wanted_at_once(demand: Demand, target: int, replicas: int) -> None:
    assert decide(0.0, target, 0, demand, RULES).replicas == replicas


def test_fewer_are_wanted_one_at_a_time_and_only_after_a_while() -> None:
    little = Demand(jobs=1, backlog_s=5)
    decision = decide(1000.0, 4, 0, little, RULES)
    assert (decision.replicas, decision.lower_since) == (4, 1000.0)
    assert decide(1299.0, 4, 0, little, RULES, 1000.0).replicas == 4
    assert decide(1300.0, 4, 0, little, RULES, 1000.0) == Decision(3, decision.wanted, 1300.0)
    assert decide(1599.0, 3, 0, little, RULES, 1300.0).replicas == 3, "each step takes its time again"
    busy = decide(1590.0, 3, 0, Demand(jobs=9, backlog_s=85), RULES, 1300.0)
    assert (busy.replicas, busy.lower_since) == (3, None), "a moment of need begins the time anew"


def test_the_last_replica_stays_longer_and_never_goes_while_a_job_is_there() -> None:
    assert decide(899.0, 1, 0, Demand(), RULES, 0.0).replicas == 1
    assert decide(900.0, 1, 0, Demand(), RULES, 0.0).replicas == 0
    assert decide(9000.0, 1, 0, Demand(jobs=1), RULES, 0.0).replicas == 1


def test_what_was_busy_lately_keeps_more_than_one_but_not_the_last() -> None:
    assert decide(900.0, 1, 0, Demand(busy=0.5), RULES, 0.0).replicas == 0
    assert decide(0.0, 0, 0, Demand(busy=0.5), RULES).replicas == 0, "nor does it bring the last one back"
    assert decide(900.0, 3, 0, Demand(busy=2.3), RULES, 0.0).replicas == 3


def test_replicas_that_never_came_are_given_up_at_once() -> None:
    little = Demand(jobs=1, backlog_s=5)
    assert decide(0.0, 8, 4, little, RULES).replicas == 4, "the four that run stay for their time"
    assert decide(0.0, 8, 8, little, RULES).replicas == 1
    assert decide(0.0, 1, 1, little, RULES).replicas == 1, "the first one is still needed"
    assert decide(0.0, 8, 4, Demand(jobs=20, backlog_s=200), RULES).replicas == 7


def test_what_is_set_by_hand_is_obeyed_at_once() -> None:
    assert decide(0.0, 4, 0, Demand(jobs=99, backlog_s=9999, pin=2), RULES).replicas == 2
    assert decide(0.0, 0, 0, Demand(pin=3), RULES).replicas == 3
    assert decide(0.0, 0, 0, Demand(floor=2), RULES).replicas == 2
    assert decide(9999.0, 2, 0, Demand(floor=2), RULES, 0.0).replicas == 2
    assert decide(0.0, 2, 0, Demand(jobs=10, backlog_s=120, floor=2), RULES).replicas == 4


def test_editors_hold_what_the_engines_take_and_no_more_than_there_is() -> None:
    assert count_editors(held=12, slots=6, jobs=100) == 2.0
    assert count_editors(held=12, slots=6, jobs=3) == 0.5


@given(
    backlog=st.floats(0, 1e5),
    jobs=st.integers(0, 1000),
    busy=st.floats(0, 50),
    target=st.integers(0, 50),
    waited=st.floats(0, 2000),
)
def test_a_decision_never_leaves_work_alone_nor_drops_more_than_one(
    backlog: float, jobs: int, busy: float, target: int, waited: float
) -> None:
    decision = decide(waited, target, 0, Demand(jobs, backlog, busy), RULES, 0.0)
    assert decision.replicas >= min(target - 1, decision.wanted)
    assert decision.replicas >= target - 1
    assert decision.replicas >= (1 if jobs else 0)
    if decision.replicas > target:
        assert decision.replicas - decision.wanted < 1 or jobs


def test_unknown_rules_are_refused() -> None:
    with pytest.raises(ValueError, match="target_wait"):
        Rules.model_validate({"target_wait": 3})
