"""The scheduling policy under every order of events, judged by a ledger that says the policy once more."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serve_app.errors import EngineFull, EngineUnavailable
from serve_app.flux.admission import SampleSpec
from serve_app.flux.stepping import Limits, Stepper, Tick, Work
from tests.flux_fakes import make_spec
from tests.flux_policy import URGENT, Job, Ledger, Name, Picture

SIDES = ((16, 16), (32, 16), (16, 32), (32, 32))  # pixels: 1, 2, 2 and 4 tokens
TEXT_LENGTHS = (128, 512)
AGING_S = 8.0
MAX_IMAGES = 3
START = 1000.0

limits = st.builds(
    Limits,
    places=st.sampled_from((4, 3, 2, 1)),
    urgent_places=st.sampled_from((2, 1, 0)),
    rows=st.sampled_from((4, 4, 3, 2, 1)),
    tokens=st.sampled_from((1024, 1024, 8, 5, 1)),
    aging_s=st.just(AGING_S),
)
sides = st.lists(st.sampled_from(SIDES), min_size=1, max_size=MAX_IMAGES)
# Whole seconds, so that ranks are often equal.
ages = st.one_of(st.just(0), st.integers(0, 3 * int(AGING_S)))
# Priority, age, images and steps.
alike = st.tuples(st.sampled_from((1, 1, 0, 2)), ages, st.integers(1, 2), st.integers(1, 4))


def names_of(tick: Tick) -> list[Name]:
    return [(sample.request_id, sample.index) for sample in tick.samples]


@dataclass(eq=False)
class Wait:
    """One request since it became eligible: the ticks since, those that failed and the images that were removed among
    them, and the images that had, at any time since, the right to go before its last one, its own included."""

    job: Job
    ticks: int = 0
    disturbances: int = 0
    ahead: set[Picture] = field(default_factory=set)


class PolicyMachine(RuleBasedStateMachine):
    """Requests come, fresh or old from the job store, get their text, are worked on, fail and go, in any order. At all
    times:

    - **Places.** At most `places` + `urgent_places` requests are held, of them at most `places` that are not urgent.
      One is refused only when, with it, more than `places` would be held besides `urgent_places` urgent ones. So an
      urgent one is taken whenever fewer than `places` + `urgent_places` are held.
    - **Order.** A step is led by the first eligible sample: by none that came more than `aging_s` after another per
      level that it is more urgent. Other ticks are for that leader, or for one sample that is at least as urgent: to
      decode it, or to encode it because it is to share the leader's next step, and came before the leader's last tick
      ended.
    - **Urgency.** When an urgent request is eligible, and none that came `aging_s` per level earlier, the next tick is
      for urgent samples only.
    - **Sharing.** The samples of a step have one size and text length, fit `rows` and `tokens` unless there is only
      one, and are those that fit, in the order; none is less urgent than the leader, or isolated.
    - **Nothing is lost.** A sample is encoded once, stepped `steps_to_run` times and decoded once, in this order,
      unless its request is removed. Something is done whenever something is eligible.
    - **Waiting.** Be A the images that go before a request's last one at any time since it became eligible, its own
      included; U the ticks they need alone (steps + 2 each), S their steps, H the images held at most. Each tick since
      is one of A's, or decodes or encodes an image that is not in A. The latter share steps that one of A leads, at
      most `rows` − 1 each, or are still held, or were removed. So the request ends within
      U + 2 · (`rows` − 1) · S + 2 · H ticks, and one more for each tick that failed and each image that was removed.
    - **No arrivals.** From then on all is done in the sum of the ticks that each image left needs alone, or fewer, with
      exactly one encoding and one decoding each. A request waits only for those before it, and for one encoding and
      one decoding of each behind it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.ids = (f"request-{number}" for number in itertools.count())
        self.waits: dict[str, Wait] = {}
        self.most_images = 0

    @initialize(limits=limits)
    def open(self, limits: Limits) -> None:
        self.limits = limits
        self.stepper = Stepper(limits)
        self.ledger = Ledger(limits)

    # -- what happens --------------------------------------------------------------------------------------------------

    @rule(
        priority=st.integers(0, 2),
        age=ages,
        sides=sides,
        steps=st.integers(1, 4),
        true_cfg=st.sampled_from((1.0, 4.0)),
        length=st.sampled_from((128, 128, 512, None)),
    )
    def arrive(
        self, priority: int, age: int, sides: list[tuple[int, int]], steps: int, true_cfg: float, length: int | None
    ) -> None:
        request_id, submitted_at = next(self.ids), self.now - age
        specs = [make_spec(*side, steps=steps, true_cfg=true_cfg) for side in sides]
        if not self.ledger.has_room(priority):
            with pytest.raises(EngineFull):
                self.stepper.admit(request_id, priority, submitted_at, specs)
            return
        samples = self.stepper.admit(request_id, priority, submitted_at, specs)
        assert [(sample.request_id, sample.index) for sample in samples] == [(request_id, i) for i in range(len(specs))]
        self.ledger.admit(request_id, priority, submitted_at, [shape_of(spec) for spec in specs])
        self.most_images = max(self.most_images, sum(len(job.pictures) for job in self.ledger.jobs.values()))
        with pytest.raises(EngineUnavailable, match=f"'{request_id}' is still ending"):
            self.stepper.admit(request_id, URGENT, self.now, specs)
        if length is not None:
            self._begin(self.ledger.jobs[request_id], length)

    @rule(several=st.lists(alike, min_size=2, max_size=6))
    def arrive_alike(self, several: list[tuple[int, int, int, int]]) -> None:
        """So that there is much to share."""
        for priority, age, images, steps in several:
            self.arrive(priority=priority, age=age, sides=[SIDES[1]] * images, steps=steps, true_cfg=1.0, length=128)

    @precondition(lambda self: any(job.text_length is None for job in self.ledger.jobs.values()))
    @rule(data=st.data(), length=st.sampled_from(TEXT_LENGTHS))
    def begin(self, data: st.DataObject, length: int) -> None:
        waiting = [job for job in self.ledger.jobs.values() if job.text_length is None]
        self._begin(data.draw(st.sampled_from(waiting)), length)

    @rule(seconds=st.integers(1, int(AGING_S)))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds

    @rule(count=st.integers(1, 4))
    def work(self, count: int) -> None:
        for _ in range(count):
            if (tick := self._next()) is not None:
                self._advance(tick)

    @rule(count=st.integers(1, 4))
    def work_on(self, count: int) -> None:
        """Twice as likely as other things."""
        self.work(count)

    @precondition(lambda self: self._is_shared())
    @rule()
    def fail_shared(self) -> None:
        """As the engine does: its samples try again, alone."""
        tick = self._next()
        assert tick is not None
        self._count_tick()
        self._disturb(1)
        self.stepper.isolate(tick)
        self.ledger.isolate(names_of(tick))

    @precondition(lambda self: self._is_shared())
    @rule(data=st.data())
    def spoil_shared(self, data: st.DataObject) -> None:
        """A step is done, but the output of one sample is none: its request goes, and its neighbours go on."""
        tick = self._next()
        assert tick is not None
        spoilt = data.draw(st.sampled_from(tick.samples)).request_id
        self._advance(Tick(tick.work, tuple(s for s in tick.samples if s.request_id != spoilt)))
        self._remove(spoilt)

    @precondition(lambda self: self.ledger.jobs)
    @rule(data=st.data(), has_failed=st.booleans())
    def leave(self, data: st.DataObject, has_failed: bool) -> None:
        """Somebody cancels, or the tick of a single sample failed: its request is removed."""
        if has_failed and self.ledger.eligible() and not self._is_shared():
            tick = self._next()
            assert tick is not None
            self._count_tick()
            self._disturb(1)
            self._remove(tick.samples[0].request_id)
        else:
            self._remove(data.draw(st.sampled_from(sorted(self.ledger.jobs))))

    # -- what is always true -------------------------------------------------------------------------------------------

    @invariant()
    def places_are_kept(self) -> None:
        self.ledger.check_places()

    @invariant()
    def the_same_is_held(self) -> None:
        assert self.stepper.order() == [job.id for job in self.ledger.order()]
        for job in self.ledger.jobs.values():
            left = {(picture.index, picture.wants, picture.stepped) for picture in job.pictures if not picture.decoded}
            assert {(s.index, s.work, s.done) for s in self.stepper.samples(job.id)} == left

    @invariant()
    def the_next_tick_is_allowed(self) -> None:
        self._next()

    @invariant()
    def waiting_is_bounded(self) -> None:
        for wait in self.waits.values():
            assert wait.ticks <= self._bound(wait)
            for picture in wait.ahead:
                levels = wait.job.priority - picture.job.priority
                assert picture.job.came_after(wait.job) <= self.limits.aging_s * levels

    def teardown(self) -> None:
        if not hasattr(self, "ledger"):
            return
        for job in self.ledger.jobs.values():
            if job.text_length is None:
                self._begin(job, TEXT_LENGTHS[0])
        pictures = self.ledger.eligible()
        expected = Counter({Work.ENCODE: sum(not p.encoded for p in pictures), Work.DECODE: len(pictures)})
        steps = sum(p.steps - p.stepped for p in pictures)
        deadlines = {job.id: self._ticks_until_done(job) for job in self.ledger.jobs.values()}
        ticks: list[Work] = []
        while (tick := self._next()) is not None:
            self._advance(tick)
            self.waiting_is_bounded()
            ticks.append(tick.work)
            assert len(ticks) <= expected.total() + steps, "more ticks than work"
            for request_id in [request_id for request_id in deadlines if request_id not in self.ledger.jobs]:
                assert len(ticks) <= deadlines.pop(request_id)
        assert not self.ledger.jobs
        assert self.stepper.order() == []
        counted = Counter(ticks)
        assert {work: counted[work] for work in expected} == dict(expected)
        # No two requests of one size are in the way of sharing where there is but one row.
        assert counted[Work.STEP] == steps or self.limits.rows > 1

    def ahead_of(self, job: Job) -> list[Picture]:
        """The eligible images that go before the last one of a request, its own among them."""
        eligible = self.ledger.eligible()
        last = max(i for i, picture in enumerate(eligible) if picture.job is job)
        return eligible[: last + 1]

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _is_shared(self) -> bool:
        tick = self.stepper.next()
        return tick is not None and len(tick.samples) > 1

    def _begin(self, job: Job, length: int) -> None:
        self.stepper.begin(job.id, length)
        job.text_length = length
        self.waits[job.id] = Wait(job)
        self._see_who_is_ahead()

    def _next(self) -> Tick | None:
        tick, again = self.stepper.next(), self.stepper.next()
        if tick is None:
            assert not self.ledger.eligible(), "nothing is done for those that could be worked on"
            return None
        assert again is not None
        assert (again.work, again.samples) == (tick.work, tick.samples), "asking changed something"
        leader = self.ledger.judge(tick.work, names_of(tick))
        if leader.job.priority == URGENT:
            assert all(sample.priority == URGENT for sample in tick.samples)
        else:
            urgent = [p.job for p in self.ledger.eligible() if p.job.priority == URGENT]
            for job in urgent:
                assert job.came_after(leader.job) >= self.limits.aging_s * leader.job.priority
        return tick

    def _advance(self, tick: Tick) -> None:
        self._count_tick()
        for sample in tick.samples:
            self.stepper.advance(sample)
        if tick.samples:
            self.ledger.apply(tick.work, names_of(tick))
        # The engine removes a request when its last sample is decoded.
        for request_id in {sample.request_id for sample in tick.samples} - set(self.ledger.jobs):
            assert self.stepper.samples(request_id) == []
            self.stepper.remove(request_id)
            self.waits.pop(request_id)

    def _remove(self, request_id: str) -> None:
        job = self.ledger.jobs.pop(request_id)
        self.waits.pop(request_id, None)
        self._disturb(len(job.pictures))
        self.stepper.remove(request_id)
        self.stepper.remove(request_id)  # an unknown one is ignored

    def _count_tick(self) -> None:
        for wait in self.waits.values():
            wait.ticks += 1

    def _disturb(self, count: int) -> None:
        for wait in self.waits.values():
            wait.disturbances += count

    def _see_who_is_ahead(self) -> None:
        for wait in self.waits.values():
            wait.ahead.update(self.ahead_of(wait.job))

    def _bound(self, wait: Wait) -> int:
        return bound(wait.ahead, self.limits, self.most_images) + wait.disturbances

    def _ticks_until_done(self, job: Job) -> int:
        """When nothing comes any more."""
        ahead = self.ahead_of(job)
        behind = self.ledger.eligible()[len(ahead) :]
        return sum(picture.units for picture in ahead) + sum((not picture.encoded) + 1 for picture in behind)


def bound(ahead: Collection[Picture], limits: Limits, images: int) -> int:
    """Ticks that a request may wait for the images before it; see `PolicyMachine` on waiting."""
    steps = sum(picture.steps for picture in ahead)
    return steps + 2 * len(ahead) + 2 * (limits.rows - 1) * steps + 2 * images


PolicyMachine.TestCase.settings = hypothesis_settings(
    max_examples=200, stateful_step_count=50, deadline=None, report_multiple_bugs=False
)
TestPolicy = PolicyMachine.TestCase


def shape_of(spec: SampleSpec) -> tuple[tuple[int, int], int, int]:
    return (spec.height // 16, spec.width // 16), 2 if spec.true_cfg > 1 else 1, spec.steps


@hypothesis_settings(max_examples=100, deadline=None)
@given(
    limits=limits,
    others=st.lists(st.tuples(st.integers(0, 2), ages, sides, st.integers(1, 4)), max_size=4),
    patient=st.tuples(st.integers(0, 2), sides, st.integers(1, 6)),
    stream=st.tuples(st.sampled_from(SIDES), st.integers(1, 3)),
    tick_s=st.sampled_from((0.5, 1.0, 3.0)),
)
def test_a_stream_of_urgent_requests_starves_nobody(
    limits: Limits,
    others: list[tuple[int, int, list[tuple[int, int]], int]],
    patient: tuple[int, list[tuple[int, int]], int],
    stream: tuple[tuple[int, int], int],
    tick_s: float,
) -> None:
    """Every free place is taken by a new urgent request at once. Nobody who comes `aging_s` per level later goes before
    the patient one, so from then on its wait is bounded by what is before it, and not by what is yet to come."""
    machine = PolicyMachine()
    machine.open(limits=limits)
    for priority, age, sizes, steps in others[: limits.places - 1]:
        machine.arrive(priority=priority, age=age, sides=sizes, steps=steps, true_cfg=1.0, length=128)
    priority, sizes, steps = patient
    machine.arrive(priority=priority, age=0, sides=sizes, steps=steps, true_cfg=1.0, length=128)
    job = list(machine.ledger.jobs.values())[-1]
    assert job.submitted_at == START
    remaining = None
    while job.id in machine.ledger.jobs:
        if remaining is None and machine.now >= START + AGING_S * priority:
            remaining = bound(machine.ahead_of(job), limits, (limits.places + limits.urgent_places) * MAX_IMAGES)
        if remaining is not None:
            assert remaining > 0
            remaining -= 1
        while machine.ledger.has_room(URGENT):
            machine.arrive(priority=URGENT, age=0, sides=[stream[0]], steps=stream[1], true_cfg=1.0, length=128)
        machine.work(count=1)
        machine.waiting_is_bounded()
        machine.now += tick_s


def test_requests_that_come_and_go_do_not_keep_the_first_from_its_steps() -> None:
    """Each would share the leader's next step, is encoded for that, and is cancelled before. They came later, so they
    must not put off the leader for ever."""
    limits = Limits(places=4, urgent_places=0, rows=4)
    stepper = Stepper(limits)
    (first,) = stepper.admit("first", 1, START, [make_spec()])
    stepper.begin("first", 128)
    stepper.advance(first)
    works = []
    for number in range(10):
        stepper.admit(f"passer-by-{number}", 1, START + 1 + number, [make_spec()])
        stepper.begin(f"passer-by-{number}", 128)
        tick = stepper.next()
        assert tick is not None
        works.append(tick.work)
        for sample in tick.samples:
            stepper.advance(sample)
        stepper.remove(f"passer-by-{number}")
    assert works.count(Work.STEP) >= len(works) // limits.rows
