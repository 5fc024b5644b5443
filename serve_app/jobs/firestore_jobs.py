"""Jobs as Firestore documents: the fields beside a job's own, and what must be indexed.

**What removes a job.** The sweep (`expiry`) does, its images first. Below it lies a net for the time when no Editor
runs: a TTL policy on `expire_at`, which is a day later than the job's own `expires_at` and only there once the job has
ended and is closed, so that the policy never takes a job that still has to run or be told of; and, as the policy knows
nothing of images, a lifecycle rule of the bucket on the prefix `jobs/`, with an age in days that is more than the
longest deadline and `result_ttl_s` together. The policy stands in `firestore.indexes.json`, because deploying that file
takes away policies it does not name. Firestore acts on it within a day or so, and counts deletes as any others
(`firebase.google.com/docs/firestore/ttl`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from google.cloud.firestore import DELETE_FIELD, SERVER_TIMESTAMP, AsyncWriteBatch

from serve_app.jobs.firestore_documents import Snapshot, write
from serve_app.jobs.model import Job, from_document, to_document
from serve_app.jobs.store import Write

log = logging.getLogger(__name__)

COMPOSITE_INDEXES = (
    ("operation", "status", "priority", "created_at"),
    ("operation", "status", "lease_expires_at"),
    ("operation", "status", "created_at"),
    ("operation", "status", "claimed_at"),
    ("status", "created_at"),
    ("status", "deadline_at"),
    ("status", "closed", "created_at"),
    ("closed", "expires_at"),
    ("owner", "-created_at"),
)
"""What the job store's queries need indexed together in the jobs collection, ascending but for those with a minus:
`firestore.indexes.json` is made of them. The emulator needs none."""

TTL_FIELD = "expire_at"
"""A timestamp, or None while the job must stay. Nothing queries it, and its values only grow: it is not indexed."""
TTL_GRACE = timedelta(days=1)
"""How long the sweep has, which takes the images along, before the TTL policy may remove the record."""

_EXTRA_FIELDS = ("lease_expires_at", "changed_at", TTL_FIELD)


def read_job(snapshot: Snapshot) -> Job | None:
    document = snapshot.to_dict()
    if document is None:
        return None
    return from_document({name: value for name, value in document.items() if name not in _EXTRA_FIELDS})


def read_jobs(snapshots: Sequence[Snapshot]) -> list[Job]:
    """Those that this version can read: a newer one's, or what else lies in the collection, must not stop the queue."""
    jobs = []
    for snapshot in snapshots:
        try:
            job = read_job(snapshot)
        except (KeyError, TypeError, ValueError) as error:
            log.warning("a document is no job of this version: %r", error, extra={"path": snapshot.reference.path})
        else:
            jobs += [job] if job is not None else []
    return jobs


def write_job(batch: AsyncWriteBatch, snapshot: Snapshot, decision: Write) -> Job:
    job = decision.job.evolve(version=decision.job.version + 1)
    extra: dict[str, Any] = {
        "lease_expires_at": job.lease.expires_at if job.lease else None,
        "changed_at": SERVER_TIMESTAMP,
        TTL_FIELD: _choose_ttl(job),
    }
    if snapshot.exists and job.traceparent is None:  # a merge would leave that of an earlier request
        extra["traceparent"] = DELETE_FIELD
    write(batch, snapshot, {**to_document(job), **extra})
    return job


def _choose_ttl(job: Job) -> datetime | None:
    if job.expires_at is None or not job.closed:
        return None
    return datetime.fromtimestamp(job.expires_at, UTC) + TTL_GRACE
