"""How long things will take, from how long they took."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.flux.estimates import NEWEST_SHARE, Estimates
from serve_app.flux.stepping import Limits, Sample, Stepper, Tick, Work
from tests.flux_fakes import make_spec

ENCODE_S, STEP_S, DECODE_S = 1.0, 4.0, 2.0


def make_samples(count: int = 1, side: int = 32, steps: int = 4, true_cfg: float = 1.0) -> list[Sample]:
    specs = [make_spec(side, side, steps=steps, true_cfg=true_cfg)] * count
    return Stepper(Limits()).admit("a", 1, 0.0, specs)


def record(estimates: Estimates, work: Work, seconds: float, *samples: Sample) -> None:
    estimates.record(Tick(work, samples or tuple(make_samples())), seconds)


def measured() -> Estimates:
    estimates = Estimates()
    for work, seconds in ((Work.ENCODE, ENCODE_S), (Work.STEP, STEP_S), (Work.DECODE, DECODE_S)):
        record(estimates, work, seconds)
    return estimates


def test_nothing_is_known_before_a_step_was_measured() -> None:
    estimates = Estimates()
    assert estimates.remaining(make_samples()) is None
    record(estimates, Work.ENCODE, 1)
    record(estimates, Work.DECODE, 1)
    assert estimates.remaining(make_samples()) is None
    assert estimates.until_done([make_samples(), make_samples()]) == [None, None]


def test_steps_alone_tell_enough() -> None:
    estimates = Estimates()
    record(estimates, Work.STEP, STEP_S)
    assert estimates.remaining(make_samples(steps=4)) == 4 * STEP_S


def test_what_is_left_is_summed() -> None:
    estimates, (sample,) = measured(), make_samples(steps=4)
    assert estimates.remaining([sample]) == ENCODE_S + 4 * STEP_S + DECODE_S
    sample.work = Work.STEP
    assert estimates.remaining([sample]) == 4 * STEP_S + DECODE_S
    sample.done = 3
    assert estimates.remaining([sample]) == STEP_S + DECODE_S
    sample.done, sample.work = 4, Work.DECODE
    assert estimates.remaining([sample]) == DECODE_S
    assert estimates.remaining([]) == 0


def test_a_sample_at_its_decoding_needs_no_step_to_be_known() -> None:
    estimates, (sample,) = Estimates(), make_samples(steps=1)
    sample.done, sample.work = 1, Work.DECODE
    record(estimates, Work.DECODE, DECODE_S)
    assert estimates.remaining([sample]) == DECODE_S


@pytest.mark.parametrize("side", [16, 64, 128])
def test_other_sizes_are_scaled_by_their_tokens(side: int) -> None:
    assert measured().remaining(make_samples(side=side, steps=4)) == (side / 32) ** 2 * (
        ENCODE_S + 4 * STEP_S + DECODE_S
    )


def test_the_nearest_size_that_was_measured_is_asked() -> None:
    estimates = Estimates()
    record(estimates, Work.STEP, 1.0, *make_samples(side=16))
    record(estimates, Work.STEP, 100.0, *make_samples(side=128))  # 64 tokens
    assert estimates.remaining(make_samples(side=32, steps=1)) == 4.0
    assert estimates.remaining(make_samples(side=112, steps=1)) == 100.0 * 49 / 64


def test_a_shared_step_tells_what_one_alone_takes() -> None:
    estimates = Estimates()
    record(estimates, Work.STEP, STEP_S, *make_samples(2))
    assert estimates.remaining(make_samples(steps=1)) == STEP_S / 2


def test_true_guidance_doubles_the_steps_and_nothing_else() -> None:
    plain, guided = make_samples(steps=1), make_samples(steps=1, true_cfg=4.0)
    assert measured().remaining(guided) == ENCODE_S + 2 * STEP_S + DECODE_S
    estimates = Estimates()
    for work, seconds in ((Work.ENCODE, ENCODE_S), (Work.STEP, 2 * STEP_S), (Work.DECODE, DECODE_S)):
        record(estimates, work, seconds, *guided)
    assert estimates.remaining(plain) == ENCODE_S + STEP_S + DECODE_S


def test_measurements_move_the_average() -> None:
    estimates = Estimates()
    record(estimates, Work.STEP, 1.0)
    record(estimates, Work.STEP, 2.0)
    assert estimates.remaining(make_samples(steps=1)) == pytest.approx(1.0 + NEWEST_SHARE)


@given(seconds=st.lists(st.floats(0.01, 100), min_size=1, max_size=40))
def test_the_average_lies_between_what_was_measured_and_forgets(seconds: list[float]) -> None:
    estimates = Estimates()
    for one in seconds:
        record(estimates, Work.STEP, one)
    average = estimates.remaining(make_samples(steps=1))
    assert average is not None
    assert min(seconds) * 0.999 <= average <= max(seconds) * 1.001
    for _ in range(40):
        record(estimates, Work.STEP, 7.0)
    assert estimates.remaining(make_samples(steps=1)) == pytest.approx(7.0, rel=0.01)


def test_a_request_waits_for_those_before_it() -> None:
    one = ENCODE_S + 4 * STEP_S + DECODE_S
    order = [make_samples(), make_samples(2), [], make_samples()]
    assert measured().until_done(order) == [one, 3 * one, 3 * one, 4 * one]
    assert measured().until_done([]) == []


def test_nobody_behind_an_unknown_time_is_told_one() -> None:
    estimates, (sample,) = Estimates(), make_samples(steps=1)
    sample.done, sample.work = 1, Work.DECODE
    assert estimates.until_done([[sample], make_samples(), [sample]]) == [0.0, None, None]
