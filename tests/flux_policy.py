"""What the module `serve_app.flux.stepping` promises, said once more and naively: a ledger of requests against which
every tick is judged. It looks at sizes and counts only, and sorts by the promise's own words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from serve_app.flux.stepping import Limits, Work

URGENT = 0

Name = tuple[str, int]
"""A picture: its request's id, and its index."""


@dataclass(eq=False)
class Picture:
    """One image to make. `tokens` and `rows` are what it adds to a call of the transformer; `seen` is the last arrival
    before the end of the last tick it was in."""

    job: Job
    index: int
    grid: tuple[int, int]
    rows: int
    steps: int
    encoded: int = 0
    stepped: int = 0
    decoded: int = 0
    is_alone: bool = False
    seen: int = 0

    @property
    def name(self) -> Name:
        return self.job.id, self.index

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1] * self.rows

    @property
    def wants(self) -> Work | None:
        if not self.encoded:
            return Work.ENCODE
        if self.stepped < self.steps:
            return Work.STEP
        return None if self.decoded else Work.DECODE

    @property
    def units(self) -> int:
        """Ticks it takes if it shares none."""
        return (1 - self.encoded) + (self.steps - self.stepped) + (1 - self.decoded)


@dataclass(eq=False)
class Job:
    """`arrival` is the order of admission."""

    id: str
    priority: int
    submitted_at: float
    arrival: int
    text_length: int | None = None
    pictures: list[Picture] = field(default_factory=list)

    @property
    def is_finished(self) -> bool:
        return all(picture.decoded for picture in self.pictures)

    def came_after(self, other: Job) -> float:
        return self.submitted_at - other.submitted_at


@dataclass(eq=False)
class Ledger:
    limits: Limits
    jobs: dict[str, Job] = field(default_factory=dict)
    arrivals: int = 0

    # -- places --------------------------------------------------------------------------------------------------------

    def has_room(self, priority: int) -> bool:
        """`places` of any priority, and `urgent_places` more that are urgent."""
        urgent = sum(job.priority <= URGENT for job in self.jobs.values()) + (priority <= URGENT)
        others = len(self.jobs) + 1 - urgent
        beyond = max(0, urgent - self.limits.urgent_places)
        return others + beyond <= self.limits.places

    def check_places(self) -> None:
        others = sum(job.priority > URGENT for job in self.jobs.values())
        assert others <= self.limits.places
        assert len(self.jobs) <= self.limits.places + self.limits.urgent_places

    def admit(
        self, request_id: str, priority: int, submitted_at: float, shapes: Sequence[tuple[tuple[int, int], int, int]]
    ) -> Job:
        """`shapes`: grid, rows and steps of each picture."""
        self.arrivals += 1
        job = self.jobs[request_id] = Job(request_id, priority, submitted_at, self.arrivals)
        job.pictures = [Picture(job, index, *shape) for index, shape in enumerate(shapes)]
        return job

    # -- order ---------------------------------------------------------------------------------------------------------

    def goes_before(self, one: Job, other: Job) -> bool:
        """Whether `one` came early enough for its priority; who was admitted first decides between equals."""
        late = one.came_after(other) - self.limits.aging_s * (other.priority - one.priority)
        return late < 0 or (late == 0 and one.arrival <= other.arrival)

    def order(self) -> list[Job]:
        jobs = list(self.jobs.values())
        return sorted(jobs, key=lambda job: sum(self.goes_before(other, job) for other in jobs))

    def eligible(self) -> list[Picture]:
        jobs = [job for job in self.order() if job.text_length is not None]
        return [picture for job in jobs for picture in job.pictures if not picture.decoded]

    # -- ticks ---------------------------------------------------------------------------------------------------------

    def judge(self, work: Work, names: Sequence[Name]) -> Picture:
        """Fails unless the tick is one that the policy allows now; returns the leader, who need not be in it."""
        found, eligible = self._find(names), self.eligible()
        assert found, "a tick without samples"
        assert set(found) <= set(eligible), "a sample without text, or of a request that is gone"
        assert all(picture.wants is work for picture in found), "not what the sample needs next"
        leader = eligible[0]
        assert all(picture.job.priority <= leader.job.priority for picture in found), "less urgent than the leader"
        if work is Work.STEP:
            self._judge_step(leader, found, eligible)
        else:
            assert len(found) == 1
        if work is Work.ENCODE and found[0] is not leader:
            assert leader.wants is Work.STEP, "the leader has other needs"
            assert found[0] in self._share(leader, eligible), "encoded, but not to share the leader's next step"
        return leader

    def apply(self, work: Work, names: Sequence[Name]) -> None:
        for picture in self._find(names):
            picture.seen = self.arrivals
            match work:
                case Work.ENCODE:
                    picture.encoded += 1
                case Work.STEP:
                    picture.stepped += 1
                case Work.DECODE:
                    picture.decoded += 1
            assert picture.encoded <= 1
            assert picture.stepped <= picture.steps
            assert picture.decoded <= 1
        for request_id in {request_id for request_id, _ in names}:
            if self.jobs[request_id].is_finished:
                del self.jobs[request_id]

    def isolate(self, names: Sequence[Name]) -> None:
        for picture in self._find(names):
            picture.is_alone = True

    def _find(self, names: Sequence[Name]) -> list[Picture]:
        return [self.jobs[request_id].pictures[index] for request_id, index in names]

    def _judge_step(self, leader: Picture, found: list[Picture], eligible: list[Picture]) -> None:
        for other in eligible:
            allowed = self.limits.aging_s * (other.job.priority - leader.job.priority)
            assert leader.job.came_after(other.job) <= allowed, "led by one that came too late"
            if other.job.priority <= leader.job.priority:
                assert other.wants is not Work.DECODE, "a finished one waits behind a step"
        assert found == self._share(leader, eligible), "not those that fit, the first in the order first"
        if len(found) > 1:
            assert sum(picture.rows for picture in found) <= self.limits.rows
            assert sum(picture.tokens for picture in found) <= self.limits.tokens

    def _share(self, leader: Picture, eligible: Sequence[Picture]) -> list[Picture]:
        """The leader and those that fit beside it and the ones before them."""
        members = [leader]
        for other in eligible[1:]:
            if self._can_share(leader, other) and self._has_space([*members, other]):
                members.append(other)
        return members

    def _can_share(self, leader: Picture, other: Picture) -> bool:
        return (
            leader.grid == other.grid
            and leader.job.text_length == other.job.text_length
            and other.job.priority <= leader.job.priority
            and not leader.is_alone
            and not other.is_alone
            and (other.encoded > 0 or other.job.arrival <= leader.seen)
        )

    def _has_space(self, pictures: Sequence[Picture]) -> bool:
        return (
            sum(picture.rows for picture in pictures) <= self.limits.rows
            and sum(picture.tokens for picture in pictures) <= self.limits.tokens
        )
