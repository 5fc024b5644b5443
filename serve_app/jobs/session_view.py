"""The fields of a session document that are ours, as the app's backend reads them. Nothing else in it is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from serve_app.jobs.model import Job, Status

Document = Mapping[str, Any]

_SHOWN = {
    Status.QUEUED: "processing",
    Status.PROCESSING: "processing",
    Status.COMPLETED: "completed",
    Status.FAILED: "failed",
    Status.CANCELLED: "failed",
}


def describe(job: Job) -> dict[str, Any]:
    """What the session shows for this state of its job; `None` clears a field. Nothing for a job without a session."""
    if job.session is None:
        return {}
    completed = job.status is Status.COMPLETED
    fields: dict[str, Any] = {
        "jobId": job.id,
        "jobPublishedAt": job.published_at,
        "processingStatus": _SHOWN[job.status],
        "progress": asdict(job.progress) if job.progress else None,
        "errorMessage": job.error if job.status in (Status.FAILED, Status.CANCELLED) else None,
    }
    if completed:
        fields |= {
            "editedImagePath": job.session.edited_path,
            "previewImagePath": job.session.preview_path,
            "cost": round(job.cost, 6),
        }
    return fields


def refuse(message: str, document: Document) -> dict[str, Any]:
    """What a session shows after a message about it that could not become a job; a job under way is left alone."""
    if document.get("jobId") and document.get("processingStatus") == "processing":
        return {}
    return {"processingStatus": "failed", "errorMessage": message}


def is_newer(document: Document | None, job: Job) -> bool:
    """Whether the session shows another job, asked for after this one; then an older message has come late."""
    if document is None or is_shown(job.id, document):
        return False
    return float(document.get("jobPublishedAt") or 0) > job.published_at


def is_shown(job_id: str, document: Document | None) -> bool:
    """Whether the session's fields speak of this job; another job of the session, asked for later, takes them over."""
    return document is not None and document.get("jobId") in (None, job_id)
