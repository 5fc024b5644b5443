"""Who is worked on next. Pure bookkeeping: no model, no clock, no thread.

**Order.** A request's rank is `submitted_at + priority · aging_s`, smaller first. It never changes, and it is what
ordering by "priority minus age / aging_s" comes to: each `aging_s` of waiting is worth one level of priority. So a
request is overtaken only by requests of higher priority that came at most `aging_s` per level after it, and by none
that came later: that is the bound on its waiting.

**Ticks.** The first sample in that order, the leader, says what is done next. Between its steps two things may come
first, each once per sample and only for samples at least as urgent as the leader: decoding one that has finished its
steps, and encoding one that will share the leader's next step, if it was there when the leader did its last work: who
comes and goes cannot put a step off. A step is shared by samples of the same size and text
length, up to the limits, and never with a less urgent one: an urgent sample's step takes no longer for the others.
Those left out wait with what they have.

**Places.** `places` requests of any priority are held at a time, the largest batch, and `urgent_places` more that are
urgent. There is no queue behind them: what waits belongs where all replicas see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from serve_app.errors import EngineFull, EngineUnavailable
from serve_app.flux.admission import SampleSpec
from serve_app.flux.denoise import Grid

URGENT = 0
"""The priority that the urgent places are kept for; smaller is more urgent."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`rows` and `tokens` bound a shared step: how many sequences it has (true guidance makes two of a sample, in a
    call each), and how many image tokens they have together; a single sample may exceed them. See the module for the
    others."""

    places: int = 4
    urgent_places: int = 2
    rows: int = 4
    tokens: int = 1024
    aging_s: float = 600.0


class Work(StrEnum):
    ENCODE = "encode"
    STEP = "step"
    DECODE = "decode"


@dataclass(slots=True, eq=False)
class Sample:
    """One image of a request, between admission and its end. `is_alone`: it shares its steps with nobody, because a
    step that it shared failed. `seen`: how many requests had ever come when it was last worked on."""

    request_id: str
    index: int
    priority: int
    rank: tuple[float, int, int]
    spec: SampleSpec
    text_length: int | None = None
    work: Work = Work.ENCODE
    done: int = 0
    is_alone: bool = False
    seen: int = 0

    @property
    def image_tokens(self) -> int:
        rows, columns = self.spec.grid
        return rows * columns

    @property
    def tokens(self) -> int:
        """Image tokens of its rows in a call of the transformer."""
        return self.image_tokens * self.spec.rows

    @property
    def shape(self) -> tuple[Grid, int | None]:
        return self.spec.grid, self.text_length


@dataclass(frozen=True, slots=True, eq=False)
class Tick:
    """One call of the model. Only a step has more than one sample; the first is the leader."""

    work: Work
    samples: tuple[Sample, ...]


@dataclass(slots=True, eq=False)
class _Entry:
    rank: tuple[float, int]
    priority: int
    samples: list[Sample] = field(default_factory=list)


class Stepper:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._entries: dict[str, _Entry] = {}
        self._arrivals = 0

    def admit(self, request_id: str, priority: int, submitted_at: float, specs: Sequence[SampleSpec]) -> list[Sample]:
        """Take a request in. It is not eligible before `begin`. Raises EngineFull, and EngineUnavailable while an
        earlier run of the same id is still ending."""
        if request_id in self._entries:
            raise EngineUnavailable(f"an earlier run of the request '{request_id}' is still ending here")
        self._check_room(priority)
        self._arrivals += 1
        rank = (submitted_at + priority * self._limits.aging_s, self._arrivals)
        entry = self._entries[request_id] = _Entry(rank, priority)
        entry.samples = [Sample(request_id, i, priority, (*rank, i), spec) for i, spec in enumerate(specs)]
        return list(entry.samples)

    def begin(self, request_id: str, text_length: int) -> None:
        """The request's prompt is encoded, and its samples may be worked on."""
        for sample in self._entries[request_id].samples:
            sample.text_length = text_length

    def remove(self, request_id: str) -> None:
        """Forget a request, whatever its state. Unknown ids are ignored."""
        self._entries.pop(request_id, None)

    def next(self) -> Tick | None:
        """What to do now; None when nothing is eligible. Asking changes nothing."""
        eligible = sorted(self._eligible(), key=lambda sample: sample.rank)
        if not eligible:
            return None
        leader = eligible[0]
        peers = [sample for sample in eligible if sample.priority <= leader.priority]
        for sample in peers:
            if sample.work is Work.DECODE:
                return Tick(Work.DECODE, (sample,))
        if leader.work is Work.ENCODE:
            return Tick(Work.ENCODE, (leader,))
        batch = self._gather(leader, peers)
        for sample in batch:
            if sample.work is Work.ENCODE:
                return Tick(Work.ENCODE, (sample,))
        return Tick(Work.STEP, tuple(batch))

    def advance(self, sample: Sample) -> None:
        """A sample's work was done; it goes on to the next, and after its decoding it is gone."""
        sample.seen = self._arrivals
        match sample.work:
            case Work.ENCODE:
                sample.work = Work.STEP
            case Work.STEP:
                sample.done += 1
                if sample.done >= sample.spec.steps_to_run:
                    sample.work = Work.DECODE
            case Work.DECODE:
                self._entries[sample.request_id].samples.remove(sample)

    def isolate(self, tick: Tick) -> None:
        """A shared step failed: its samples try again, each by itself, so that only the one at fault ends."""
        for sample in tick.samples:
            sample.is_alone = True

    def order(self) -> list[str]:
        """The requests held, the first to be worked on first."""
        return sorted(self._entries, key=lambda request_id: self._entries[request_id].rank)

    def samples(self, request_id: str) -> list[Sample]:
        """A request's samples that are not yet decoded."""
        return list(self._entries[request_id].samples)

    def _check_room(self, priority: int) -> None:
        held = len(self._entries)
        urgent = sum(entry.priority <= URGENT for entry in self._entries.values())
        limits = self._limits
        if priority <= URGENT:
            if held >= limits.places + limits.urgent_places:
                raise EngineFull(f"all {limits.places + limits.urgent_places} places are taken")
        elif held - min(urgent, limits.urgent_places) >= limits.places:
            raise EngineFull(f"all {limits.places} places that are not kept for urgent requests are taken")

    def _eligible(self) -> list[Sample]:
        entries = self._entries.values()
        return [sample for entry in entries for sample in entry.samples if sample.text_length is not None]

    def _gather(self, leader: Sample, peers: Sequence[Sample]) -> list[Sample]:
        batch, rows, tokens = [leader], leader.spec.rows, leader.tokens
        for sample in () if leader.is_alone else peers:
            fits = rows + sample.spec.rows <= self._limits.rows and tokens + sample.tokens <= self._limits.tokens
            is_there = sample.work is Work.STEP or sample.rank[1] <= leader.seen
            if sample is not leader and fits and is_there and not sample.is_alone and sample.shape == leader.shape:
                batch.append(sample)
                rows, tokens = rows + sample.spec.rows, tokens + sample.tokens
        return batch
