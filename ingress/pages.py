"""A caller's jobs, page by page."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.errors import InvalidRequest
from serve_app.jobs.model import Job, Status
from serve_app.jobs.service import JobService

MAX_READ = 500
"""Jobs read for one page, however few of them have the wanted status; more would make one request cost like many."""

BATCH = 100

Position = tuple[float, str]
"""created_at and id of the last job seen."""


@dataclass(frozen=True, slots=True)
class Page:
    jobs: Sequence[Job]
    next_cursor: str | None


async def read_page(service: JobService, owner: str, *, limit: int, cursor: str | None, status: Status | None) -> Page:
    """Newest first. Raises InvalidRequest for a cursor that is none of ours."""
    position = None if cursor is None else _read_cursor(cursor)
    found: list[Job] = []
    for _ in range(MAX_READ // BATCH):
        size = BATCH if status else limit
        batch = await service.list_owned(owner, limit=size + 1, before=position)
        for job in batch[:size]:
            position = (job.created_at, job.id)
            if status in (None, job.status):
                found.append(job)
                if len(found) == limit:
                    return Page(found, _write_cursor(position) if job is not batch[-1] else None)
        if len(batch) <= size:
            return Page(found, None)
    assert position is not None
    return Page(found, _write_cursor(position))


def _write_cursor(position: Position) -> str:
    return base64.urlsafe_b64encode(json.dumps(position, separators=(",", ":")).encode()).decode().rstrip("=")


def _read_cursor(text: str) -> Position:
    try:
        created_at, job_id = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if not isinstance(created_at, float) or not math.isfinite(created_at) or not isinstance(job_id, str):
            raise ValueError("not a position")
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise InvalidRequest("cursor is not one that this service gave; send a page's next_cursor.", "cursor") from None
    return created_at, job_id
