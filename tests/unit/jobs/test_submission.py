"""Orders over HTTP become jobs: once per key, with their images in the store, and only if they can be done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from serve_app.clock import SystemClock
from serve_app.errors import Conflict, InvalidRequest
from serve_app.jobs.model import Operation, Priority, Status
from serve_app.jobs.submission import JobOrder, Submitter, choose_size
from serve_app.settings_sections import FluxSettings
from tests.engines import FakeEngine
from tests.photos import make_mask, make_photo
from tests.workbench import Workbench, open_workbench

INPAINT = JobOrder(
    owner="ada", operation=Operation.INPAINT, key="k1", init_image=make_photo(), mask_image=make_mask(), seed=3
)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Workbench]:
    async with open_workbench(tmp_path, {"draft": FakeEngine()}, start=False) as bench:
        yield bench


def open_submitter(bench: Workbench) -> Submitter:
    return Submitter(bench.stores.jobs, bench.stores.photos, bench.settings, SystemClock())


async def test_an_order_becomes_a_job_with_its_images(bench: Workbench) -> None:
    job = await open_submitter(bench).submit(replace(INPAINT, priority=Priority.URGENT, deadline_s=60))
    assert (job.status, job.owner, job.operation, job.engine) == (Status.QUEUED, "ada", Operation.INPAINT, "draft")
    assert (job.priority, job.deadline_at - job.created_at) == (Priority.URGENT, 60)
    assert job.expires_at == job.deadline_at + bench.settings.jobs.result_ttl_s
    assert job.files.original is not None
    stored = await bench.stores.photos.read(job.files.original, max_bytes=10**9)
    assert (stored.data, stored.generation) == (INPAINT.init_image, job.original_generation)
    assert await bench.service.get(job.id) == job


async def test_a_key_is_one_job_for_one_caller(bench: Workbench) -> None:
    submitter = open_submitter(bench)
    first, again = await submitter.submit(INPAINT), await submitter.submit(INPAINT)
    assert again == first
    other, keyless = replace(INPAINT, owner="bob"), replace(INPAINT, key=None)
    assert len({(await submitter.submit(order)).id for order in (INPAINT, other, keyless, keyless)}) == 4


async def test_orders_that_race_are_one_job(bench: Workbench) -> None:
    jobs = await asyncio.gather(*(open_submitter(bench).submit(INPAINT) for _ in range(8)))
    assert {job.id for job in jobs} == {jobs[0].id}
    assert {job.created_at for job in jobs} == {jobs[0].created_at}


@pytest.mark.parametrize(
    "change", [{"seed": 4}, {"prompt": "x"}, {"init_image": make_photo(seed=9)}, {"priority": Priority.LOW}]
)
async def test_a_key_with_another_order_is_a_conflict(bench: Workbench, change: dict[str, object]) -> None:
    first = await open_submitter(bench).submit(INPAINT)
    with pytest.raises(Conflict, match="Idempotency-Key was used for another request"):
        await open_submitter(bench).submit(replace(INPAINT, **change))  # type: ignore[arg-type]
    assert await bench.service.get(first.id) == first


async def test_of_two_different_orders_that_race_for_a_key_one_wins_whole(bench: Workbench) -> None:
    orders = [replace(INPAINT, init_image=make_photo(seed=seed)) for seed in range(4)]
    answers = await asyncio.gather(*(open_submitter(bench).submit(order) for order in orders), return_exceptions=True)
    jobs = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert all(isinstance(answer, Conflict) for answer in answers if isinstance(answer, BaseException))
    assert len({job.digest for job in jobs}) <= 1
    for job in jobs:
        assert job.files.original is not None
        stored = await bench.stores.photos.read(job.files.original, max_bytes=10**9)
        assert stored.data == orders[answers.index(job)].init_image


@pytest.mark.parametrize(
    ("order", "field", "words"),
    [
        (replace(INPAINT, mask_image=None), "mask_image", "ImageInpaint needs mask_image"),
        (replace(INPAINT, init_image=b""), "init_image", "needs init_image"),
        (replace(INPAINT, init_image=b"hello"), "init_image", "send a JPEG, PNG, WebP or GIF"),
        (replace(INPAINT, width=512, height=512), "width", "keeps the image's size"),
        (replace(INPAINT, operation=Operation.GENERATE, prompt="p"), "init_image", "takes no init_image"),
        (JobOrder(owner="a", operation=Operation.GENERATE, prompt="p"), "operation", "no model here does it"),
    ],
)
async def test_what_no_run_could_do_is_refused_and_leaves_nothing(
    bench: Workbench, order: JobOrder, field: str, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words) as raised:
        await open_submitter(bench).submit(order)
    assert raised.value.field == field
    assert (await bench.stores.jobs.backlog(0)).queued == 0
    assert not list(bench.settings.data_dir.rglob("*_image"))


async def test_a_generation_needs_words_of_its_own(bench: Workbench) -> None:
    settings = bench.settings.model_copy(update={"flux": FluxSettings(checkpoints={"flux-dev": "hub"})})
    submitter = Submitter(bench.stores.jobs, bench.stores.photos, settings, SystemClock())
    order = JobOrder(owner="a", operation=Operation.GENERATE)
    with pytest.raises(InvalidRequest, match="needs a prompt"):
        await submitter.submit(order)
    job = await submitter.submit(replace(order, prompt="a dog"))
    assert (job.engine, job.parameters.width, job.parameters.height) == ("flux-base", 1024, 1024)


@pytest.mark.parametrize(
    ("width", "height", "field", "words"),
    [
        (512, None, "height", "go together"),
        (None, 512, "width", "go together"),
        (500, 512, "width", "multiples of 16"),
        (512, 48, "height", "from 64"),
        (2048, 1024, "width", "more than the 1048576 accepted"),
    ],
)
def test_sizes_are_checked(width: int | None, height: int | None, field: str, words: str) -> None:
    order = JobOrder(owner="a", operation=Operation.GENERATE, prompt="p", width=width, height=height)
    with pytest.raises(InvalidRequest, match=words) as raised:
        choose_size(order)
    assert raised.value.field == field
