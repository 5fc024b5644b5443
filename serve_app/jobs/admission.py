"""What becomes of an order: a new job, one that is under way or done already, or one that starts over."""

from __future__ import annotations

from typing import Any

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
    """Decide inside a transaction; `fresh` is the job as the order describes it. Raises NotClosed.

    An order older than what its session shows comes too late: it neither takes the session over nor starts again.
    """
    late = session_view.is_newer(document, fresh)
    if found is None:
        if late:
            return Write(transitions.cancel(fresh, fresh.created_at, transitions.SUPERSEDED))
        return Write(fresh, session_view.describe(fresh))
    if delivery in found.deliveries:
        return _repeat(found, document)
    shown = session_view.is_shown(found.id, document)
    joined = transitions.join(found, fresh, delivery)
    if late:
        return Write(joined)
    if not found.status.is_final or (found.status is Status.COMPLETED and shown):
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
