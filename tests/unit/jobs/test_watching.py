"""One job, many watchers: what each read of the store is for, and whom it serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from serve_app.errors import StoreUnavailable
from serve_app.jobs import watching
from serve_app.jobs.model import Job, Parameters, Session, Status
from serve_app.jobs.watching import Watchers

JOB = Job(
    id="edit-a",
    session=Session("u", "s"),
    original_generation="1",
    mask_generation="1",
    parameters=Parameters("draft", "grass", 1, 0.0),
    created_at=100.0,
    published_at=100.0,
    deadline_at=3700.0,
    version=1,
)


class Table:
    """A store of one job whose reads take until `gate` opens: what they find is what was there when they began."""

    def __init__(self) -> None:
        self.job: Job | None = JOB
        self.error: Exception | None = None
        self.reads = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._touched = True

    def write(self, **changes: object) -> None:
        assert self.job is not None
        self.job = self.job.evolve(version=self.job.version + 1, **changes)
        self._touched = True

    async def get(self, _job_id: str) -> Job | None:
        self.reads += 1
        found, error = self.job, self.error
        await self.gate.wait()
        if error is not None:
            raise error
        return found

    async def read(self) -> set[str]:
        touched, self._touched = self._touched, False
        return {JOB.id} if touched else set()


@pytest.fixture
async def table() -> Table:
    return Table()


@pytest.fixture
async def watchers(table: Table) -> AsyncIterator[Watchers]:
    opened = Watchers(lambda: table, 0.001)
    yield opened
    await opened.close()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0.001)


async def collect(watchers: Watchers, table: Table, seen: list[int]) -> None:
    async with aclosing(watchers.follow(JOB.id, table.get)) as jobs:
        async for job in jobs:
            seen.append(job.version)


async def test_a_change_is_read_once_for_all(table: Table, watchers: Watchers) -> None:
    seen: list[list[int]] = [[] for _ in range(100)]
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for versions in seen:
            group.create_task(collect(watchers, table, versions))
        await settle()
        opening = table.reads
        for _ in range(3):
            table.write()
            await settle()
        assert table.reads == opening + 3
        table.write(status=Status.CANCELLED)
    assert seen == [[1, 2, 3, 4, 5]] * 100
    assert opening <= 2  # one for the watchers, one for the poll that has no earlier look to compare with


async def test_what_was_being_read_before_one_asked_is_not_his_answer(table: Table, watchers: Watchers) -> None:
    """A job that failed is asked for again: its new watcher must not be told the earlier end."""
    first: list[int] = []
    waiting = asyncio.create_task(collect(watchers, table, first))
    await settle()
    table.gate.clear()
    table.write(status=Status.FAILED)
    await settle()  # the read of the failed job is under way
    table.write(status=Status.QUEUED)
    second: list[int] = []
    late = asyncio.create_task(collect(watchers, table, second))
    await settle()
    table.gate.set()
    await settle()
    assert (first, second) == ([1, 2], [3])
    table.write(status=Status.CANCELLED)
    async with asyncio.timeout(20):
        await asyncio.gather(waiting, late)
    assert (first, second) == ([1, 2], [3, 4])


async def test_one_who_is_slow_skips_to_the_newest_without_a_read_of_his_own(table: Table, watchers: Watchers) -> None:
    keen: list[int] = []
    reading = asyncio.create_task(collect(watchers, table, keen))
    async with aclosing(watchers.follow(JOB.id, table.get)) as slow:
        assert (await anext(slow)).version == 1
        for status in (Status.PROCESSING, Status.PROCESSING, Status.COMPLETED):
            table.write(status=status)
            await settle()
        reads = table.reads
        assert [job.version async for job in slow] == [4]
        assert table.reads == reads
    await reading
    assert keen == [1, 2, 3, 4]


async def test_an_outage_is_told_to_all_and_the_next_watch_starts_over(table: Table, watchers: Watchers) -> None:
    waiting = [asyncio.create_task(collect(watchers, table, [])) for _ in range(3)]
    await settle()
    table.error = StoreUnavailable("out for lunch.")
    table.write()
    async with asyncio.timeout(20):
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 3
    table.error = None
    table.write(status=Status.CANCELLED)
    again: list[int] = []
    await collect(watchers, table, again)
    assert again == [3]


async def test_a_change_nobody_told_of_is_found(
    table: Table, watchers: Watchers, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    waiting = asyncio.create_task(collect(watchers, table, seen))
    await settle()
    monkeypatch.setattr(watching, "RECHECK_S", 0.0)
    table.job = JOB.evolve(version=2, status=Status.CANCELLED)
    async with asyncio.timeout(20):
        await waiting
    assert seen == [1, 2]


async def test_a_job_that_is_removed_ends_its_watch(table: Table, watchers: Watchers) -> None:
    seen: list[int] = []
    waiting = asyncio.create_task(collect(watchers, table, seen))
    await settle()
    table.write()
    table.job = None
    async with asyncio.timeout(20):
        await waiting
    assert seen == [1]


async def test_the_last_to_leave_ends_the_reading(table: Table, watchers: Watchers) -> None:
    waiting = [asyncio.create_task(collect(watchers, table, [])) for _ in range(2)]
    await settle()
    waiting[0].cancel()
    await settle()
    reads = table.reads
    table.write()
    await settle()
    assert table.reads == reads + 1
    waiting[1].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    table.write()
    await settle()
    assert table.reads == reads + 1
