"""How many jobs per second 1, 4 and 16 workers take from Firestore's queue and finish, each with a client of its own.

`python -m bench.claims [--jobs 200]` wants FIRESTORE_EMULATOR_HOST; it prints a table, and one JSON line last. A job is
two transactions here, claim and finish. All workers are tasks of one process, so on few cores the figure is what Python
and the emulator's Java can do, and tells whether workers slow each other down; it is no promise for production.

What caps production: every write of a job enters the index on `changed_at`, whose values only grow, and such a
collection takes about 500 writes per second; with two writes per job, some 250 claims per second, and less by what
running jobs write besides. A shard number before that field in the indexes, derived from the job id, multiplies the cap
by the number of shards; nothing else is shared between jobs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
import uuid
from dataclasses import dataclass, field

from google.cloud.firestore import AsyncClient

from serve_app.jobs import transitions
from serve_app.jobs.firestore import FirestoreJobStore
from serve_app.jobs.model import Job, Parameters, Session, Status
from serve_app.jobs.session_view import Document
from serve_app.jobs.store import Write
from serve_app.settings_sections import GoogleSettings, JobSettings

WORKERS = (1, 4, 16)
OUTCOME = transitions.Outcome({}, "none", 0.0, 0.0, 0.0)
SETTINGS = JobSettings()


@dataclass
class Round:
    """`decided` counts decisions to claim, those that collided included; `claim_s` has the time of each claim won."""

    finished: list[str] = field(default_factory=list)
    decided: int = 0
    claim_s: list[float] = field(default_factory=list)
    seconds: float = 0.0


def make_job(number: int) -> Job:
    now = time.time()
    return Job(
        id=f"edit-{number:05}",
        session=Session("bench", f"s{number}"),
        original_generation="1",
        mask_generation="1",
        parameters=Parameters("draft", "grass", 1, 0.0),
        created_at=now,
        published_at=now,
        deadline_at=now + 3600.0,
    )


async def drain(store: FirestoreJobStore, token: str, result: Round) -> None:
    def take(job: Job | None, _document: Document | None) -> Write:
        assert job is not None
        result.decided += 1
        return Write(transitions.claim(job, token, time.time(), SETTINGS))

    def finish(job: Job | None, _document: Document | None) -> Write:
        assert job is not None
        return Write(transitions.complete(job, token, time.time(), OUTCOME))

    while True:
        started = time.perf_counter()
        job = await store.claim(time.time(), take)
        if job is None:
            return
        result.claim_s.append(time.perf_counter() - started)
        ended = await store.change(job.id, job.session, finish)
        assert ended is not None
        assert ended.status is Status.COMPLETED
        result.finished.append(ended.id)


async def race(workers: int, jobs: int) -> Round:
    project, settings, result = f"bench-{uuid.uuid4().hex[:12]}", GoogleSettings(), Round()
    clients = [AsyncClient(project=project) for _ in range(workers)]
    stores = [FirestoreJobStore(client, settings) for client in clients]
    for number in range(jobs):
        job = make_job(number)
        await stores[0].change(job.id, job.session, lambda _job, _document, job=job: Write(job))  # type: ignore[misc]
    for store in stores:
        await store.get("edit-none")  # connects
    started = time.perf_counter()
    await asyncio.gather(*(drain(store, f"worker-{number}", result) for number, store in enumerate(stores)))
    result.seconds = time.perf_counter() - started
    for client in clients:
        await client._firestore_api.transport.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    jobs: int = parser.parse_args().jobs
    if not os.environ.get("FIRESTORE_EMULATOR_HOST"):
        sys.exit("FIRESTORE_EMULATOR_HOST must name the emulator; this never runs against a real project.")
    figures: dict[str, float] = {}
    print("workers  claims/s  median ms  slowest ms  decisions/claim  twice  lost")
    for workers in WORKERS:
        result = asyncio.run(race(workers, jobs))
        rate, distinct = len(result.finished) / result.seconds, len(set(result.finished))
        print(
            f"{workers:>7}{rate:>10.1f}{statistics.median(result.claim_s) * 1000:>11.1f}"
            f"{max(result.claim_s) * 1000:>12.1f}{result.decided / jobs:>17.2f}"
            f"{len(result.finished) - distinct:>7}{jobs - distinct:>6}",
            flush=True,
        )
        figures[f"claims_per_s_{workers}"] = round(rate, 1)
    print(json.dumps({"bench": "claims", "jobs": jobs, **figures}))


if __name__ == "__main__":
    main()
