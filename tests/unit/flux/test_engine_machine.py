"""The engine's thread in lock-step through every order of events, judged by the policy's ledger.

A step of the test is between two calls of the model: the engine's thread stands inside one, or is idle. So every
interleaving of what callers do with the calls is the test's choice, and repeats.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serve_app.engines.protocol import Cancelled, Decoding, Done, Event, Failed, FillRequest, Queued, Step
from serve_app.errors import EngineFailed, EngineRejected, PawfectError
from serve_app.flux.stepping import Limits
from tests.flux_fakes import Call, FakePrompts, Listener, make_fill, make_spec, paint
from tests.flux_lockstep import LockStep
from tests.flux_policy import Ledger, Name

SIDES = ((16, 16), (32, 16), (32, 32))
AGING_S = 8.0
SEEDS_EACH = 100
LETTERS: dict[type[Event], str] = {Queued: "Q", Step: "S", Decoding: "D", Done: ".", Failed: "!", Cancelled: "x"}
# A request may end before it was told anything; one that is done was queued, stepped and decoded.
GRAMMAR = re.compile(r"Q*(S+D*)?[!x]?|Q+S+D+\.")


@dataclass(eq=False)
class Asked:
    """A request and what is to become of it. `end` is how it must have ended by now; `calls_left` is the number of
    calls that had begun when it was cancelled or late: none of the later ones may have it."""

    request: FillRequest
    listener: Listener
    number: int
    text_error: str | None = None
    has_text: bool = True
    is_cancelled: bool = False
    end: str | None = None
    calls_left: int | None = None


class EngineMachine(RuleBasedStateMachine):
    """Requests are submitted, cancelled, become late, get their prompt or fail to, while calls of the model end well,
    raise, or give rows that are no picture. At all times:

    - every call is one that the policy allows (see `PolicyMachine`), with the state that its samples had reached, and
      something is called whenever something can be done;
    - no call begins with a request that was cancelled, or whose deadline passed, before;
    - every request has ended exactly as what happened to it demands, once, and nothing follows its end;
    - its events come in the order Queued, Step from 0 up and never back, Decoding, end; what is done has the images of
      its own samples after all their steps.
    """

    @initialize(
        limits=st.builds(
            Limits,
            places=st.sampled_from((4, 3, 2, 1)),
            urgent_places=st.sampled_from((2, 1, 0)),
            rows=st.sampled_from((4, 4, 3, 2, 1)),
            tokens=st.sampled_from((1024, 1024, 4, 1)),
            aging_s=st.just(AGING_S),
        )
    )
    def open(self, limits: Limits) -> None:
        self.bench = LockStep(limits, prompts=FakePrompts(lengths={"long": 512}))
        self.ledger = Ledger(limits)
        self.asked: dict[str, Asked] = {}
        self.rejected: list[Listener] = []

    # -- what happens --------------------------------------------------------------------------------------------------

    @rule(
        priority=st.integers(0, 2),
        age=st.one_of(st.just(0), st.integers(0, 20)),
        sides=st.lists(st.sampled_from(SIDES), min_size=1, max_size=2),
        steps=st.integers(1, 3),
        is_guided=st.booleans(),
        prompt=st.sampled_from(("grass", "grass", "long", "slow")),
        deadline_s=st.one_of(st.none(), st.integers(0, 20)),
    )
    def submit(
        self,
        priority: int,
        age: int,
        sides: list[tuple[int, int]],
        steps: int,
        is_guided: bool,
        prompt: str,
        deadline_s: int | None,
    ) -> None:
        number = len(self.asked)
        request_id, now = f"request-{number}", self.bench.clock.time
        if prompt == "slow":
            prompt = f"slow {number}"
            self.bench.prompts.slow.add(prompt)
        request = make_fill(
            request_id,
            sides=sides,
            steps=steps,
            seed=number * SEEDS_EACH,
            prompt=prompt,
            negative_prompt="leash" if is_guided else None,
            true_cfg=4.0,
            priority=priority,
            submitted_at=now - age,
            deadline_at=None if deadline_s is None else now + deadline_s,
        )
        has_room = self.ledger.has_room(priority)
        if has_room:
            shapes = [((height // 16, width // 16), 2 if is_guided else 1, steps) for width, height in sides]
            self.ledger.admit(request_id, priority, now - age, shapes)
        before = self.bench.call
        asked = self.asked[request_id] = Asked(request, self.bench.submit(request), number)
        asked.has_text = not prompt.startswith("slow")
        if not has_room:
            asked.end = "engine_full"
        self._see(before)

    @rule(several=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 2), st.integers(1, 3)), min_size=2, max_size=4))
    def submit_alike(self, several: list[tuple[int, int, int]]) -> None:
        """Priority, crops and steps; so that there is much to share."""
        for priority, crops, steps in several:
            self.submit(
                priority=priority,
                age=0,
                sides=[SIDES[0]] * crops,
                steps=steps,
                is_guided=False,
                prompt="grass",
                deadline_s=None,
            )

    @precondition(lambda self: self.ledger.jobs)
    @rule(data=st.data())
    def submit_again(self, data: st.DataObject) -> None:
        before = self.bench.call
        request = self.asked[data.draw(st.sampled_from(sorted(self.ledger.jobs)))].request
        (event,) = self.bench.submit(request).events
        assert isinstance(event, Failed)
        assert event.code == "engine_unavailable"
        self._see(before)

    @precondition(lambda self: any(not asked.has_text for asked in self.asked.values()))
    @rule(data=st.data(), error=st.sampled_from((None, None, EngineRejected, EngineFailed)))
    def finish_prompt(self, data: st.DataObject, error: type[PawfectError] | None) -> None:
        before = self.bench.call
        asked = data.draw(st.sampled_from([asked for asked in self.asked.values() if not asked.has_text]))
        asked.has_text, asked.text_error = True, None if error is None else error.code
        if error is None:
            self.bench.prompts.finish(asked.request.prompt)
        else:
            self.bench.prompts.fail(asked.request.prompt, error("told to"))
        self.bench.settle()
        self._see(before)

    @rule(seconds=st.integers(1, int(AGING_S)))
    def pass_time(self, seconds: int) -> None:
        before = self.bench.call
        self._pass(seconds)
        self.bench.pass_time(0)
        self._see(before)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Of those who have ended, too."""
        before = self.bench.call
        asked = data.draw(st.sampled_from(list(self.asked.values())))
        asked.is_cancelled = True
        self._forbid(asked)
        self.bench.engine.cancel(asked.request.request_id)
        self.bench.settle()
        self._see(before)

    @precondition(lambda self: self.bench.call is not None)
    @rule(count=st.integers(1, 4), seconds=st.integers(0, 3))
    def work(self, count: int, seconds: int) -> None:
        for _ in range(count):
            if self.bench.call is not None:
                self._end_well(seconds)

    @precondition(lambda self: self.bench.call is not None)
    @rule(count=st.integers(1, 3))
    def work_on(self, count: int) -> None:
        """Twice as likely as other things."""
        self.work(count, 1)

    @precondition(lambda self: self.bench.call is not None)
    @rule(error=st.sampled_from((EngineFailed, RuntimeError)), seconds=st.integers(0, 3))
    def fail(self, error: type[Exception], seconds: int) -> None:
        names = self._names(self._call)
        self._pass(seconds)
        if len(names) > 1:
            self.ledger.isolate(names)
        else:
            self._end(names[0][0], "engine_failed")
        self.bench.finish(error("told to"))
        self._see(None)

    @precondition(lambda self: self.bench.call is not None)
    @rule(data=st.data())
    def spoil(self, data: st.DataObject) -> None:
        call = self._call
        seeds = data.draw(st.sets(st.sampled_from(call.seeds), min_size=1))
        spoilt = {self._name(seed)[0] for seed in seeds}
        self.ledger.apply(call.work, [name for name in self._names(call) if name[0] not in spoilt])
        for request_id in spoilt:
            self._end(request_id, "output_invalid")
        self.bench.finish(seeds)
        self._see(None)

    @precondition(lambda self: self.bench.call is not None)
    @rule()
    def finish_all(self) -> None:
        """With no arrivals, in no more ticks than there is work."""
        left = sum(picture.units for job in self.ledger.jobs.values() for picture in job.pictures)
        while self.bench.call is not None:
            assert left > 0
            self._end_well(0)
            left -= 1

    # -- what is always true -------------------------------------------------------------------------------------------

    @invariant()
    def ends_are_as_they_must_be(self) -> None:
        for asked in self.asked.values():
            ends = asked.listener.ends()
            assert len(ends) == (asked.end is not None), (asked.end, asked.listener.events)
            if ends:
                assert name_of(ends[0]) == asked.end
                assert asked.listener.events[-1] is ends[0]

    @invariant()
    def events_are_in_order(self) -> None:
        for asked in self.asked.values():
            events = asked.listener.events
            assert GRAMMAR.fullmatch("".join(LETTERS[type(event)] for event in events)), events
            steps = [event.step for event in asked.listener.of(Step)]
            assert steps[:1] in ([], [0])
            assert steps == sorted(steps)
            if events and isinstance(events[-1], Done):
                assert steps[-1] == asked.request.steps
                images = events[-1].result.images
                for index, (crop, image) in enumerate(zip(asked.request.crops, images, strict=True)):
                    height, width = crop.mask.shape
                    sample = make_spec(width, height, seed=asked.request.seed + index)
                    assert (image == paint(sample, asked.request.steps)).all()

    @invariant()
    def who_is_gone_is_not_worked_on(self) -> None:
        for asked in self.asked.values():
            if asked.calls_left is not None:
                later = self.bench.model.calls[asked.calls_left :]
                assert asked.number not in {seed // SEEDS_EACH for call in later for seed in call.seeds}

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        call = self.bench.call
        self.bench.close()
        if call is not None:
            self._apply_well(call)
        for request_id in list(self.ledger.jobs):
            self._end(request_id, "cancelled")
        self.ends_are_as_they_must_be()
        self.events_are_in_order()
        self.who_is_gone_is_not_worked_on()
        codes = [end.code for asked in self.asked.values() for end in asked.listener.ends() if isinstance(end, Failed)]
        for code in set(codes):
            counted = self.bench.sink.value("pawfect_engine_failures_total", engine="flux", kind=code)
            assert counted == codes.count(code)

    # -- parts ---------------------------------------------------------------------------------------------------------

    @property
    def _call(self) -> Call:
        assert self.bench.call is not None
        return self.bench.call

    def _name(self, seed: int) -> Name:
        return f"request-{seed // SEEDS_EACH}", seed % SEEDS_EACH

    def _names(self, call: Call) -> list[Name]:
        return [self._name(seed) for seed in call.seeds]

    def _pass(self, seconds: int) -> None:
        clock = self.bench.clock
        clock.time += seconds
        for asked in self.asked.values():
            if asked.request.deadline_at is not None and asked.request.deadline_at <= clock.time:
                self._forbid(asked)

    def _forbid(self, asked: Asked) -> None:
        if asked.calls_left is None:
            asked.calls_left = len(self.bench.model.calls)

    def _end_well(self, seconds: int) -> None:
        self._pass(seconds)
        self._apply_well(self._call)
        self.bench.finish()
        self._see(None)

    def _apply_well(self, call: Call) -> None:
        names = self._names(call)
        self.ledger.apply(call.work, names)
        for request_id in {request_id for request_id, _ in names} - set(self.ledger.jobs):
            self.asked[request_id].end = "done"

    def _end(self, request_id: str, end: str) -> None:
        self.asked[request_id].end = end
        del self.ledger.jobs[request_id]

    def _attend(self) -> None:
        """What the engine does between two calls."""
        for job in list(self.ledger.jobs.values()):
            asked = self.asked[job.id]
            deadline_at = asked.request.deadline_at
            if asked.is_cancelled:
                self._end(job.id, "cancelled")
            elif deadline_at is not None and self.bench.clock.time >= deadline_at:
                self._end(job.id, "deadline_exceeded")
            elif asked.text_error is not None:
                self._end(job.id, asked.text_error)
            elif asked.has_text:
                job.text_length = 512 if asked.request.prompt == "long" else 128

    def _see(self, before: Call | None) -> None:
        """The engine went on, unless it still is in the call that it was in before: judge where it went."""
        call = self.bench.call
        if before is not None:
            assert call is before, "the engine did not wait for its call"
            return
        self._attend()
        if call is None:
            assert not self.ledger.eligible(), "nothing is done for those that could be worked on"
            return
        names = self._names(call)
        self.ledger.judge(call.work, names)
        pictures = [self.ledger.jobs[request_id].pictures[index] for request_id, index in names]
        assert call.done == tuple(picture.stepped for picture in pictures)
        assert call.text_lengths == tuple(picture.job.text_length for picture in pictures)
        assert call.negative_lengths == tuple(128 if picture.rows == 2 else None for picture in pictures)


def name_of(end: Event) -> str:
    match end:
        case Done():
            return "done"
        case Failed(code=code):
            return code
        case _:
            return "cancelled"


EngineMachine.TestCase.settings = hypothesis_settings(
    max_examples=100, stateful_step_count=40, deadline=None, report_multiple_bugs=False
)
TestEngine = EngineMachine.TestCase
