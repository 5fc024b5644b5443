"""What could not be done, kept with its reason and the original data so that a person can look and replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from serve_app.jobs.model import Job


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """`id` is the same however often the letter is written, so that a repeat is harmless. `at` is a Unix time."""

    id: str
    at: float
    reason: str
    message: str
    data: str
    attributes: Mapping[str, str] = field(default_factory=dict)


class DeadLetters(Protocol):
    """The service only writes them; reading and replaying them is a person's business."""

    async def put(self, letter: DeadLetter) -> bool:
        """Whether the letter was new, as far as the place can tell; the same one may be put again. Raises
        StoreUnavailable when the place does not answer."""


def describe_failure(job: Job) -> DeadLetter:
    finished = job.finished_at or 0.0
    return DeadLetter(
        id=f"{job.id}-{finished:.3f}",
        at=finished,
        reason=job.error_code or "unknown",
        message=job.error or "",
        data=job.message,
        attributes={
            "jobId": job.id,
            **({"userId": job.session.user_id, "sessionId": job.session.session_id} if job.session else {}),
            **({"owner": job.owner} if job.owner else {}),
            "attempts": str(job.attempts),
            "deliveryId": job.deliveries[-1] if job.deliveries else "",
        },
    )
