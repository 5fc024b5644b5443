"""The document that shows a headshot, as the app's backend and its pages read it."""

from __future__ import annotations

from typing import Any

from serve_app.jobs.model import Job, Status

COLLECTION = "headshots"
"""Of the embedded store; in Firestore it is a setting."""
SHOWN = {
    Status.QUEUED: "queued",
    Status.PROCESSING: "processing",
    Status.COMPLETED: "done",
    Status.FAILED: "failed",
    Status.CANCELLED: "failed",
}


def locate(job_id: str) -> str:
    return f"{COLLECTION}/{job_id}"


def describe(job: Job) -> dict[str, Any]:
    """All of the document, whose `quality` is there as soon as somebody has looked at the photo."""
    done, headshot = job.status is Status.COMPLETED, job.headshot
    return {
        "job_id": job.id,
        "status": SHOWN[job.status],
        "preview_url": headshot.preview_url if done and headshot else None,
        "print_url": headshot.print_url if done and headshot else None,
        "links_expire_at": headshot.links_expire_at if done and headshot else None,
        "quality": dict(headshot.quality) if headshot else None,
        "error": job.error if job.status in (Status.FAILED, Status.CANCELLED) else None,
        "error_code": job.error_code if job.status in (Status.FAILED, Status.CANCELLED) else None,
        "created_at": job.created_at,
        "finished_at": job.finished_at,
    }
