"""What the tests of headshots' orders share."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from serve_app.engines.protocol import Done, Event, HeadshotResult, Step
from serve_app.jobs.headshot_names import draw_ticket
from serve_app.jobs.headshot_orders import PhotoOrder, UploadOrder
from serve_app.jobs.model import Job
from tests.engines import FakeEngine
from tests.photos import make_photo
from tests.workbench import Workbench, open_workbench

PHOTO, OTHER = make_photo(), make_photo(seed=1)
QUALITY = {"pass": True, "metrics": {"blur_var": 120.5}, "reasons": []}
SAFE = re.compile(r"[A-Za-z0-9_-]{1,99}\.(jpg|png|webp|heic|heif)")
KEY = "perkie-1/original/rex.jpg"
TICKETED = draw_ticket("ann")


def give(mark: bytes = b"") -> list[Event]:
    values = {"quality": QUALITY, "engine_seconds": 1.0, "gpu_seconds": 0.0}
    return [Step(0, 8), Done(HeadshotResult(preview=b"preview" + mark, print=b"print" + mark, **values))]


@asynccontextmanager
async def open_bench(root: Path, *, start: bool = True, **jobs: float) -> AsyncIterator[tuple[Workbench, FakeEngine]]:
    engine = FakeEngine()
    async with open_workbench(root, {"headshots": engine}, start=start, **jobs) as bench:
        yield bench, engine


def order(photo: bytes = PHOTO, name: str = "rex.jpg", key: str | None = "k", owner: str = "ann") -> PhotoOrder:
    return PhotoOrder(owner, photo, name, "image/jpeg", key)


def message(delivery: str = "m1", key: str = KEY, job_id: str = "perkie-1") -> UploadOrder:
    return UploadOrder(job_id, "local", key, delivery=delivery, message="e30=")


def originals(root: Path) -> list[str]:
    folder = root / "photos" / "headshots" / "originals"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


async def put(bench: Workbench, photo: bytes = PHOTO, key: str = KEY) -> str:
    path = f"headshots/originals/{key}"
    expected = await bench.stores.photos.stat(path)
    return await bench.stores.photos.write(path, photo, content_type="image/jpeg", expected=expected)


async def read_output(bench: Workbench, job: Job, name: str) -> bytes:
    path = f"headshots/outputs/{job.id}/outputs/{name}.png"
    return (await bench.stores.photos.read(path, max_bytes=10**6)).data


async def show(bench: Workbench, job: Job) -> dict[str, object]:
    document: dict[str, object] = await bench.stores.jobs.get_headshot(job.id)  # type: ignore[attr-defined]
    return document
