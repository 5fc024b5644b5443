"""Links to a headshot's files."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from serve_app.jobs.model import Job
from serve_app.photos.links import Link, Links

TYPE = "image/png"


@dataclass(frozen=True, slots=True)
class ResultLinks:
    """`print` is None for who may not have it."""

    preview: Link
    print: Link | None


async def sign_results(links: Links, job: Job, *, with_print: bool) -> ResultLinks:
    """Raises StoreUnavailable."""
    files = job.files
    assert files.preview is not None
    preview = links.sign_download(files.preview, TYPE, f"{job.id}-preview.png")
    if not with_print:
        return ResultLinks(await preview, None)
    return ResultLinks(*await asyncio.gather(preview, links.sign_download(files.result, TYPE, f"{job.id}-print.png")))
