"""Against numbers worked by hand: 121 TFLOP/s, 30 to 60 % of it."""

from __future__ import annotations

import pytest

from capacity.facts import L4_BF16, L4_HOUR, L4_SPOT_HOUR, PRICES
from capacity.photos import TFLOP, Span, find_dollars, find_seconds


def test_a_photo_of_121_tflop_takes_a_peak_second_over_the_utilisation() -> None:
    seconds = find_seconds(121)
    assert (seconds.low, seconds.high) == (pytest.approx(1 / 0.6), pytest.approx(1 / 0.3))


def test_the_median_photo_at_high_takes_13_to_26_seconds() -> None:
    seconds = find_seconds(953)
    assert (round(seconds.low, 1), round(seconds.high, 1)) == (13.1, 26.3)


def test_an_hours_work_costs_an_hour() -> None:
    """121 × 0.3 TFLOP/s for 3,600 s."""
    assert find_dollars(121 * 0.3 * 3600, 0.85).high == pytest.approx(0.85)


def test_the_published_peak_is_a_dense_one() -> None:
    """NVIDIA's data sheet gives 242 with sparsity, which is twice what a dense product has."""
    assert pytest.approx(242 / 2) == L4_BF16.value


def test_a_node_costs_its_cores_memory_and_its_gpu() -> None:
    """us-east4: twice a g2-standard-4's $0.14631, and $0.55821 for the L4; Spot $0.05851 and $0.2233."""
    assert round(L4_HOUR.value, 4) == 0.8508
    assert round(L4_SPOT_HOUR.value, 4) == 0.3403


def test_every_price_has_a_unit_and_says_where_it_is_from() -> None:
    assert all(fact.unit and fact.where for fact in PRICES)
    assert [fact.name for fact in PRICES if fact.where == "assumed"] == ["pd-balanced"]


def test_better_qualities_take_more_and_long_leashes_more_than_the_median() -> None:
    assert list(TFLOP.values()) == sorted(TFLOP.values())
    assert all(median < leash for median, leash in TFLOP.values())


def test_a_spans_middle_is_between_its_ends() -> None:
    assert Span(2, 4).middle == 3
    assert Span(2, 4).times(1.5) == Span(3, 6)
