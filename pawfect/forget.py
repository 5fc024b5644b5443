"""`pawfect forget`: jobs and results of one user or caller, or single jobs, forgotten before their time."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

from serve_app.clock import SystemClock
from serve_app.errors import NotFound, StoreUnavailable
from serve_app.jobs.closing import Closer
from serve_app.jobs.erasure import Erased, Erasure
from serve_app.jobs.job_metrics import JobMetrics
from serve_app.jobs.model import Job
from serve_app.jobs.service import JobService
from serve_app.metrics import PlainSink
from serve_app.settings import Settings, load_settings
from serve_app.stores import Stores, open_stores

WAIT_S = 60.0
"""For jobs that run to notice that they are cancelled: one denoising step, or one stage."""


def add_commands(commands: Any) -> None:
    """Of argparse's subparsers."""
    forget = commands.add_parser("forget", help="delete the jobs and results of a user, of a caller, or single ones")
    whose = forget.add_mutually_exclusive_group(required=True)
    whose.add_argument("--user", help="of the sessions users/USER/sessions/…: jobs, edited.jpg, preview.jpg")
    whose.add_argument("--owner", help="the caller's name, as its API key or e-mail says: jobs with all their images")
    whose.add_argument("--job", action="append", help="may be given again")
    forget.add_argument("--yes", action="store_true", help="do it; without it, what would be forgotten is listed")
    forget.add_argument("--data", type=Path, help="the data folder of the service (default: PAWFECT_DATA_DIR or data)")
    forget.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """0 when all is forgotten, or was only listed; 1 when something is left, or a store did not answer."""
    settings = load_settings(**({} if options.data is None else {"data_dir": options.data}))
    try:
        return asyncio.run(_forget(settings, options))
    except (StoreUnavailable, NotFound) as error:
        print(f"not everything is forgotten: {error.message}")
        return 1


async def _forget(settings: Settings, options: argparse.Namespace) -> int:
    stores = open_stores(settings)
    try:
        erasure = _make_erasure(settings, stores)
        jobs = await _find(stores, erasure, options)
        for job in jobs:
            print(f"{job.id}  {job.status}  {job.session.path if job.session is not None else job.owner}")
        if not options.yes:
            print(f"{len(jobs)} jobs; nothing is forgotten without --yes")
            return 0
        erased = await erasure.erase(jobs)
        print(_tell(erased))
        return 1 if erased.left else 0
    finally:
        await stores.close()


def _make_erasure(settings: Settings, stores: Stores) -> Erasure:
    clock = SystemClock()
    closer = Closer(stores.jobs, stores.dead_letters, JobMetrics(PlainSink(), settings))
    service = JobService(stores.jobs, stores.photos, closer, settings, clock)
    return Erasure(stores.jobs, stores.photos, service.cancel, clock, wait_s=WAIT_S)


async def _find(stores: Stores, erasure: Erasure, options: argparse.Namespace) -> list[Job]:
    """Raises NotFound, StoreUnavailable."""
    if options.user is not None:
        return [job async for job in erasure.list_of_user(options.user)]
    if options.owner is not None:
        return [job async for job in erasure.list_of_owner(options.owner)]
    found = []
    for job_id in options.job:
        job = await stores.jobs.get(job_id)
        if job is None:
            raise NotFound(f"There is no job {job_id}.")
        found.append(job)
    return found


def _tell(erased: Erased) -> str:
    left = f"; still running, ask again: {', '.join(erased.left)}" if erased.left else ""
    return f"{erased.jobs} jobs forgotten, results of {erased.results} deleted from their sessions{left}"
