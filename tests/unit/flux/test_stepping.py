"""Who is worked on next, in cases that a reader can follow; `test_stepping_machine` has the others."""

from __future__ import annotations

import pytest

from serve_app.errors import EngineFull, EngineUnavailable
from serve_app.flux.stepping import Limits, Sample, Stepper, Tick, Work
from tests.flux_fakes import make_spec

NORMAL, URGENT = 1, 0
AGING_S = 600.0


class Bench:
    """A stepper whose ticks are done at once; a tick is told as its work and the ids of its requests."""

    def __init__(self, **limits: float) -> None:
        self.stepper = Stepper(Limits(**({"places": 8, "aging_s": AGING_S} | limits)))  # type: ignore[arg-type]

    def admit(
        self,
        request_id: str,
        priority: int = NORMAL,
        at: float = 0.0,
        *,
        images: int = 1,
        text: int = 128,
        **spec: float,
    ) -> list[Sample]:
        specs = [make_spec(**spec)] * images  # type: ignore[arg-type]
        samples = self.stepper.admit(request_id, priority, at, specs)
        if text:
            self.stepper.begin(request_id, text)
        return samples

    def next(self) -> Tick:
        tick = self.stepper.next()
        assert tick is not None
        return tick

    def do(self) -> tuple[str, ...]:
        tick = self.next()
        for sample in tick.samples:
            self.stepper.advance(sample)
            if not self.stepper.samples(sample.request_id):
                self.stepper.remove(sample.request_id)
        return (str(tick.work), *(sample.request_id for sample in tick.samples))

    def do_all(self) -> list[tuple[str, ...]]:
        done = []
        while self.stepper.next() is not None:
            done.append(self.do())
        return done


def test_one_request_is_encoded_stepped_and_decoded() -> None:
    bench = Bench()
    bench.admit("a", steps=3)
    assert bench.do_all() == [("encode", "a"), *[("step", "a")] * 3, ("decode", "a")]
    assert bench.stepper.order() == []


def test_of_a_partly_kept_image_only_its_share_of_the_steps_is_run() -> None:
    bench = Bench()
    bench.admit("a", steps=4, strength=0.5)
    assert bench.do_all().count(("step", "a")) == 2


def test_nothing_is_done_before_the_text_is_there() -> None:
    bench = Bench()
    assert bench.stepper.next() is None
    bench.admit("a", text=0)
    assert bench.stepper.next() is None
    assert bench.stepper.order() == ["a"]
    bench.stepper.begin("a", 128)
    assert bench.do() == ("encode", "a")


def test_later_requests_of_the_same_kind_join_and_leave_between_steps() -> None:
    bench = Bench()
    bench.admit("a", steps=3)
    assert [bench.do(), bench.do()] == [("encode", "a"), ("step", "a")]
    bench.admit("b", at=1, steps=1)
    assert bench.do_all() == [("step", "a"), ("encode", "b"), ("step", "a", "b"), ("decode", "a"), ("decode", "b")]


def test_the_crops_of_a_request_share_its_steps() -> None:
    bench = Bench()
    bench.admit("a", images=2, steps=1)
    assert bench.do_all() == [*[("encode", "a")] * 2, ("step", "a", "a"), *[("decode", "a")] * 2]


@pytest.mark.parametrize(
    "other", [{"width": 64}, {"width": 16, "height": 64}, {"text": 256}], ids=["size", "as many tokens", "text length"]
)
def test_what_differs_shares_no_step(other: dict[str, int]) -> None:
    bench = Bench()
    bench.admit("a", steps=1, width=32, height=32)
    bench.admit("b", at=1, steps=1, **({"width": 32, "height": 32} | other))
    alone = [[("encode", name), ("step", name), ("decode", name)] for name in "ab"]
    assert bench.do_all() == [*alone[0], *alone[1]]


def test_a_true_guided_sample_takes_two_rows() -> None:
    bench = Bench(rows=3)
    for at, (name, true_cfg) in enumerate([("a", 4.0), ("b", 4.0), ("c", 1.0)]):
        bench.admit(name, at=at, steps=1, true_cfg=true_cfg)
    assert bench.do_all()[:3] == [("encode", "a"), ("encode", "c"), ("step", "a", "c")]


def test_tokens_bound_a_step_but_a_single_sample_may_exceed_them() -> None:
    bench = Bench(tokens=8)
    for at, name in enumerate("abc"):
        bench.admit(name, at=at, steps=1, width=32, height=32)  # four tokens each
    assert ("step", "a", "b") in bench.do_all()
    bench.admit("large", steps=1, width=64, height=64)
    assert ("step", "large") in bench.do_all()


def test_an_urgent_request_takes_the_next_tick_and_the_paused_one_goes_on_where_it_was() -> None:
    bench = Bench()
    (paused,) = bench.admit("a", steps=3)
    assert [bench.do(), bench.do()] == [("encode", "a"), ("step", "a")]
    bench.admit("b", URGENT, at=5, steps=2)
    assert [bench.do() for _ in range(4)] == [("encode", "b"), *[("step", "b")] * 2, ("decode", "b")]
    assert paused.done == 1
    assert bench.do_all() == [*[("step", "a")] * 2, ("decode", "a")]


def test_an_urgent_request_is_slowed_by_no_other_and_even_a_decoding_waits() -> None:
    bench = Bench()
    bench.admit("a", steps=1)
    assert [bench.do(), bench.do()] == [("encode", "a"), ("step", "a")]
    bench.admit("b", URGENT, at=5, steps=1)
    assert [bench.do()[1] for _ in range(4)] == ["b", "b", "b", "a"]


def test_urgent_ones_share_the_steps_of_one_that_is_not() -> None:
    bench = Bench()
    bench.admit("old", at=0, steps=2)
    bench.admit("urgent", URGENT, at=AGING_S + 1, steps=1)
    assert bench.do_all() == [
        ("encode", "old"),
        ("encode", "urgent"),
        ("step", "old", "urgent"),
        ("decode", "urgent"),
        ("step", "old"),
        ("decode", "old"),
    ]


@pytest.mark.parametrize(
    ("priority", "later_s", "first"),
    [
        (URGENT, 599, "b"),
        (URGENT, 600, "a"),
        (URGENT, 601, "a"),
        (NORMAL, 0, "a"),
        (NORMAL, -1, "b"),
        (2, -599, "a"),
        (2, -601, "b"),
    ],
)
def test_each_aging_s_of_waiting_is_worth_one_level(priority: int, later_s: float, first: str) -> None:
    bench = Bench()
    bench.admit("a", NORMAL, at=1000)
    bench.admit("b", priority, at=1000 + later_s)
    assert bench.do() == ("encode", first)
    assert bench.stepper.order()[0] == first


def test_the_order_among_equals_is_that_of_arrival_and_of_the_crops() -> None:
    bench = Bench(rows=1)
    first, second = bench.admit("b", images=2, steps=1)
    bench.admit("a", steps=1)
    assert bench.next().samples == (first,)
    assert [name for _, name in bench.do_all()] == [*["b"] * 6, "a", "a", "a"]
    assert (first.work, second.work) == (Work.DECODE, Work.DECODE)


def test_after_a_shared_step_failed_each_goes_on_alone() -> None:
    bench = Bench()
    for at, name in enumerate("ab"):
        bench.admit(name, at=at, steps=1)
    assert [bench.do(), bench.do()] == [("encode", "a"), ("encode", "b")]
    bench.stepper.isolate(bench.next())
    bench.admit("c", at=2, steps=1)
    assert bench.do_all() == [
        ("step", "a"),
        ("decode", "a"),
        ("step", "b"),
        ("decode", "b"),
        ("encode", "c"),
        ("step", "c"),
        ("decode", "c"),
    ]


def test_nobody_shares_with_one_whose_shared_step_failed() -> None:
    bench = Bench()
    for at, name in enumerate("ab"):
        bench.admit(name, at=at, steps=1)
    assert [bench.do(), bench.do()] == [("encode", "a"), ("encode", "b")]
    bench.stepper.isolate(bench.next())
    bench.admit("older", at=-1, steps=1)
    assert bench.do_all()[:3] == [("encode", "older"), ("step", "older"), ("decode", "older")]


def test_those_who_come_after_the_leaders_last_work_do_not_put_off_its_step() -> None:
    bench = Bench()
    bench.admit("a", steps=2)
    bench.admit("b", at=1, steps=2)
    assert bench.do() == ("encode", "a")
    bench.admit("c", at=2, steps=1)
    assert bench.do_all() == [
        ("encode", "b"),
        ("step", "a", "b"),
        ("encode", "c"),
        ("step", "a", "b", "c"),
        ("decode", "a"),
        ("decode", "b"),
        ("decode", "c"),
    ]


def test_the_largest_batch_is_held_and_no_more() -> None:
    bench = Bench(places=2, urgent_places=0)
    bench.admit("a")
    bench.admit("b")
    for priority in (URGENT, NORMAL):
        with pytest.raises(EngineFull, match="2 places"):
            bench.admit("c", priority)
    bench.stepper.remove("a")
    bench.stepper.remove("nobody")
    bench.admit("c")
    assert bench.stepper.order() == ["b", "c"]


def test_places_are_kept_for_urgent_requests() -> None:
    bench = Bench(places=2, urgent_places=1)
    bench.admit("a")
    bench.admit("b")
    with pytest.raises(EngineFull, match="2 places that are not kept for urgent"):
        bench.admit("c")
    bench.admit("c", URGENT)
    with pytest.raises(EngineFull, match="all 3 places"):
        bench.admit("d", URGENT)


def test_urgent_requests_take_their_own_places_first_and_then_any() -> None:
    bench = Bench(places=2, urgent_places=1)
    bench.admit("a", URGENT)
    bench.admit("b", NORMAL)
    bench.admit("c", URGENT)
    with pytest.raises(EngineFull):
        bench.admit("d", NORMAL)
    bench.stepper.remove("c")
    bench.admit("d", NORMAL)
    assert set(bench.stepper.order()) == {"a", "b", "d"}


def test_an_id_that_is_held_is_refused_whatever_room_there_is() -> None:
    bench = Bench()
    bench.admit("a")
    with pytest.raises(EngineUnavailable, match="earlier run of the request 'a'") as caught:
        bench.admit("a", URGENT)
    assert caught.value.code == "engine_unavailable"
    assert len(bench.stepper.samples("a")) == 1
