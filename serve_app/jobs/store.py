"""The queue of record: jobs and the session documents that show them, changed together in transactions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from serve_app.jobs.model import Job, Lane, Session, Status
from serve_app.jobs.session_view import Document


@dataclass(frozen=True, slots=True)
class Write:
    """A job to store and the fields to merge into its session's document, where there is one."""

    job: Job
    fields: Mapping[str, Any] | None = None


Decide = Callable[[Job | None, Document | None], Write | None]
"""A pure decision inside a transaction: the job and the session document as they are → what to write, or nothing.

May be called several times when transactions collide. What it raises reaches the caller and nothing is written.
"""


@dataclass(frozen=True, slots=True)
class LaneBacklog:
    """`oldest_queued_s` since that job came, `oldest_running_s` since that one was claimed, in seconds; 0 when there is
    none."""

    queued: int
    running: int
    oldest_queued_s: float
    oldest_running_s: float


@dataclass(frozen=True, slots=True)
class Backlog:
    """Jobs that wait or run: by the name of their engine, "" for those that name none, and by lane. What is not there
    is nothing."""

    queued_by_engine: Mapping[str, int] = field(default_factory=dict)
    running_by_engine: Mapping[str, int] = field(default_factory=dict)
    lanes: Mapping[Lane, LaneBacklog] = field(default_factory=dict)

    @property
    def queued(self) -> int:
        return sum(self.queued_by_engine.values())

    @property
    def running(self) -> int:
        return sum(self.running_by_engine.values())


class JobStore(Protocol):
    """Every method raises StoreUnavailable when the store does not answer.

    Whatever writes a headshot writes the document that shows it, too (`headshot_view`).
    """

    async def change(self, job_id: str, session: Session | None, decide: Decide) -> Job | None:
        """Apply a decision; returns the job as it stands afterwards. Its version grows by one with each write."""

    async def claim(
        self, now: float, decide: Decide, *, urgent_only: bool = False, lane: Lane = Lane.IMAGES
    ) -> Job | None:
        """Apply a decision to the first job of the lane that may run now, by (priority, age): a queued one whose pause
        is over, or a running one whose lease ran out. Of all racing callers one gets the job. None when there is
        none."""

    async def get(self, job_id: str) -> Job | None: ...

    async def find(
        self, *, status: Status, limit: int, before_deadline: float | None = None, closed: bool | None = None
    ) -> Sequence[Job]:
        """Oldest first. `before_deadline` keeps jobs whose deadline lies before that time."""

    def watch(self, job_id: str) -> AsyncGenerator[Job]:
        """The job now and after each change, intermediate ones may be skipped; ends after a final status.
        Yields nothing for an unknown id."""

    async def list_owned(self, owner: str, *, limit: int, before: tuple[float, str] | None = None) -> Sequence[Job]:
        """A caller's jobs, newest first. `before` is (created_at, id) of the last job of the page before."""

    async def list_of_user(self, user_id: str, *, limit: int, after: str = "") -> Sequence[Job]:
        """Jobs of a user's sessions, by id; `after` is the last id of the page before."""

    async def find_expired(self, now: float, *, limit: int) -> Sequence[Job]:
        """Final and closed jobs whose `expires_at` has passed, the longest expired first."""

    async def remove(self, job: Job) -> None:
        """Forget a job; one that was written meanwhile, or is gone, is left alone. A watch on it ends."""

    async def backlog(self, now: float) -> Backlog: ...

    async def get_session(self, session: Session) -> dict[str, Any] | None: ...

    async def merge_session(self, session: Session, decide: Callable[[Document], Mapping[str, Any]]) -> bool:
        """Merge fields into an existing document; False, and nothing written, when there is none."""

    async def close(self) -> None: ...
