"""What becomes of an order: a new job, one that is under way or done already, or one that starts over."""

from __future__ import annotations

from typing import Any

from serve_app.errors import Conflict
from serve_app.jobs import session_view, transitions
from serve_app.jobs.model import Job, Status
from serve_app.jobs.session_view import Document
from serve_app.jobs.store import Write


class NotClosed(Exception):
    """The job that should start over has ended, but has not been closed yet."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.id)
        self.job = job


def admit(found: Job | None, document: Document | None, fresh: Job, delivery: str) -> Write | None:
    """Decide inside a transaction; `fresh` is the job as the order describes it. Raises NotClosed, and Conflict for an
    id that another job has.

    An order older than what its session shows comes too late: it neither takes the session over nor starts again. One
    about a photo that has been replaced since its job was asked for has the job begin anew.
    """
    late = session_view.is_newer(document, fresh)
    if found is None:
        if late:
            return Write(transitions.cancel(fresh, fresh.created_at, transitions.SUPERSEDED))
        return Write(fresh, session_view.describe(fresh))
    if (found.operation, found.owner, found.digest) != (fresh.operation, fresh.owner, fresh.digest):
        raise Conflict("This job_id is another job's; use a new one.")
    if delivery in found.deliveries:
        return _repeat(found, document)
    # Without a session nothing else shows the job, and its id does not tell whether its photo has been replaced.
    shown = fresh.session is None or session_view.is_shown(found.id, document)
    current = (found.original_path, found.original_generation) == (fresh.original_path, fresh.original_generation)
    joining = transitions.join if current or found.status.is_final else transitions.renew
    joined = joining(found, fresh, delivery)
    if late:
        return Write(joined)
    if not found.status.is_final or (found.status is Status.COMPLETED and shown and current):
        return Write(joined, session_view.describe(joined))
    if not found.closed:
        raise NotClosed(found)
    again = transitions.requeue(found, fresh, delivery)
    return Write(again, session_view.describe(again))


def _repeat(found: Job, document: Document | None) -> Write | None:
    """A message that has been answered before: nothing, unless the session has lost what came of it."""
    if document is None or not session_view.is_shown(found.id, document):
        return None
    fields: dict[str, Any] = session_view.describe(found)
    stale = any(document.get(name) != value for name, value in fields.items() if name != "progress")
    return Write(found, fields) if stale else None
