"""What every job store promises, whatever it is made of."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import Conflict, LeaseLost
from serve_app.jobs import session_view, transitions
from serve_app.jobs.model import Job, Lane, Operation, Parameters, Priority, Progress, Session, Stage, Status
from serve_app.jobs.session_view import Document
from serve_app.jobs.store import LaneBacklog, Write
from serve_app.settings_sections import JobSettings
from serve_app.stores import Stores
from tests.contract.conftest import STORES

SETTINGS = JobSettings()
SESSION = Session("user", "session")
OUTCOME = transitions.Outcome({"engine": 1.0}, "draft", 1.0, 0.0, 0.0)


def make_job(name: str = "a", **changes: Any) -> Job:
    job = Job(
        id=f"edit-{name}",
        session=SESSION,
        original_generation="1",
        mask_generation="2",
        parameters=Parameters("draft", "grass", 1, 0.0),
        created_at=100.0,
        published_at=100.0,
        deadline_at=5000.0,
        deliveries=("m1",),
    )
    return job.evolve(**changes)


async def submit(stores: Stores, job: Job) -> Job:
    stored = await stores.jobs.change(
        job.id, job.session, lambda _job, _document: Write(job, session_view.describe(job))
    )
    assert stored is not None
    return stored


async def claim(
    stores: Stores, now: float, token: str = "t", *, urgent_only: bool = False, lane: Lane = Lane.IMAGES
) -> Job | None:
    def decide(job: Job | None, _document: Document | None) -> Write:
        assert job is not None
        return Write(transitions.claim(job, token, now, SETTINGS))

    return await stores.jobs.claim(now, decide, urgent_only=urgent_only, lane=lane)


async def end(stores: Stores, job: Job, change: transitions.End, token: str = "t", now: float = 200.0) -> Job:
    def decide(found: Job | None, _document: Document | None) -> Write:
        assert found is not None
        return Write(change(found, token, now, False))

    ended = await stores.jobs.change(job.id, job.session, decide)
    assert ended is not None
    return ended


async def test_what_was_written_is_read_back_with_its_version_counted(stores: Stores) -> None:
    job = await submit(stores, make_job())
    assert job.version == 1
    assert await stores.jobs.get(job.id) == job
    assert await stores.jobs.get("edit-unknown") is None


async def test_a_trace_is_kept_until_a_request_without_one_starts_the_job_over(stores: Stores) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    job = await submit(stores, make_job(traceparent=traceparent))
    assert await stores.jobs.get(job.id) == job
    assert job.traceparent == traceparent
    again = await stores.jobs.change(job.id, SESSION, lambda found, _document: Write(make_job(version=job.version)))
    assert again is not None
    assert await stores.jobs.get(job.id) == again
    assert again.traceparent is None


async def test_a_decision_that_raises_writes_nothing(stores: Stores) -> None:
    job = await submit(stores, make_job())

    def refuse(_job: Job | None, _document: Document | None) -> Write:
        raise Conflict("no")

    with pytest.raises(Conflict, match="no"):
        await stores.jobs.change(job.id, SESSION, refuse)
    assert await stores.jobs.get(job.id) == job


async def test_a_decision_for_nothing_leaves_the_version(stores: Stores) -> None:
    job = await submit(stores, make_job())
    assert await stores.jobs.change(job.id, SESSION, lambda _job, _document: None) == job


async def test_sessions_are_merged_and_never_created(stores: Stores) -> None:
    await submit(stores, make_job())
    assert await stores.jobs.get_session(SESSION) is None
    await put_session(stores, SESSION, {"petName": "Rex", "processingStatus": "new"})
    await submit(stores, make_job())
    document = await stores.jobs.get_session(SESSION)
    assert document is not None
    assert (document["petName"], document["processingStatus"]) == ("Rex", "processing")
    assert document["jobId"] == "edit-a"
    assert not await stores.jobs.merge_session(Session("user", "none"), lambda _document: {"a": 1})
    assert await stores.jobs.get_session(Session("user", "none")) is None
    assert await stores.jobs.merge_session(SESSION, lambda document: {"seen": document["petName"]})
    merged = await stores.jobs.get_session(SESSION)
    assert merged == {**document, "seen": "Rex"}


async def put_session(stores: Stores, session: Session, document: dict[str, Any]) -> None:
    await stores.jobs.put_session(session, document)  # type: ignore[attr-defined]


async def test_claims_go_by_priority_then_age(stores: Stores) -> None:
    await submit(stores, make_job("late", created_at=103.0))
    await submit(stores, make_job("low", created_at=100.0, priority=Priority.LOW))
    await submit(stores, make_job("early", created_at=101.0))
    await submit(stores, make_job("urgent", created_at=104.0, priority=Priority.URGENT))
    order = [job.id async for job in _claim_all(stores)]
    assert order == ["edit-urgent", "edit-early", "edit-late", "edit-low"]


async def _claim_all(stores: Stores) -> Any:
    while (job := await claim(stores, 110.0)) is not None:
        yield job


async def test_urgent_places_take_urgent_jobs_only(stores: Stores) -> None:
    await submit(stores, make_job("normal"))
    assert await claim(stores, 110.0, urgent_only=True) is None
    await submit(stores, make_job("urgent", priority=Priority.URGENT))
    job = await claim(stores, 110.0, urgent_only=True)
    assert job is not None
    assert job.id == "edit-urgent"


async def test_a_pause_before_the_next_run_is_kept(stores: Stores) -> None:
    await submit(stores, make_job(not_before=120.0))
    assert await claim(stores, 119.9) is None
    assert await claim(stores, 120.0) is not None


async def test_a_lease_protects_until_it_runs_out_and_then_the_loser_cannot_write(stores: Stores) -> None:
    await submit(stores, make_job())
    first = await claim(stores, 110.0, "first")
    assert first is not None
    assert await claim(stores, 110.0 + SETTINGS.lease_s - 0.1, "second") is None
    second = await claim(stores, 110.0 + SETTINGS.lease_s, "second")
    assert second is not None
    assert (second.attempts, second.crashes) == (2, 1)
    with pytest.raises(LeaseLost):
        await end(stores, first, transitions.completing(OUTCOME), "first")
    ended = await end(stores, second, transitions.completing(OUTCOME), "second")
    assert ended.status is Status.COMPLETED


async def test_a_finish_by_a_loser_is_refused_and_changes_nothing(stores: Stores) -> None:
    await put_session(stores, SESSION, {})
    await submit(stores, make_job())
    loser = await claim(stores, 110.0, "loser")
    winner = await claim(stores, 110.0 + SETTINGS.lease_s, "winner")
    assert loser is not None
    assert winner is not None
    ended = await end(stores, winner, transitions.completing(OUTCOME), "winner")
    shown = await stores.jobs.get_session(SESSION)
    for token in ("loser", "winner"):
        with pytest.raises(LeaseLost):
            await end(stores, loser, lambda job, held, now, _: transitions.release(job, held), token, 300.0)
    assert await stores.jobs.get("edit-a") == ended
    assert await stores.jobs.get_session(SESSION) == shown


async def request_cancel(stores: Stores, job: Job) -> Job:
    def decide(found: Job | None, _document: Document | None) -> Write:
        assert found is not None
        changed = transitions.request_cancel(found, 150.0)
        return Write(changed, session_view.describe(changed))

    changed = await stores.jobs.change(job.id, job.session, decide)
    assert changed is not None
    return changed


async def test_a_cancelled_job_in_the_queue_is_not_claimed(stores: Stores) -> None:
    await put_session(stores, SESSION, {})
    cancelled = await request_cancel(stores, await submit(stores, make_job()))
    assert cancelled.status is Status.CANCELLED
    assert await claim(stores, 160.0) is None
    document = await stores.jobs.get_session(SESSION)
    assert document is not None
    assert (document["processingStatus"], document["errorMessage"]) == ("failed", "cancelled")
    with pytest.raises(Conflict, match="already cancelled"):
        await request_cancel(stores, cancelled)


async def test_a_running_job_learns_that_it_is_cancelled_and_obeys(stores: Stores) -> None:
    await submit(stores, make_job())
    running = await claim(stores, 110.0)
    assert running is not None
    marked = await request_cancel(stores, running)
    assert (marked.status, marked.cancel_requested) == (Status.PROCESSING, True)
    assert (await end(stores, running, transitions.obey)).status is Status.CANCELLED


async def test_no_concurrent_change_is_lost(stores: Stores, kind: str, tmp_path: Path) -> None:
    await put_session(stores, SESSION, {"count": 0})
    await submit(stores, make_job())

    def join(delivery: str) -> Any:
        def decide(job: Job | None, document: Document | None) -> Write:
            assert job is not None
            assert document is not None
            return Write(transitions.join(job, make_job(), delivery), {"count": document["count"] + 1})

        return decide

    async with STORES[kind](tmp_path) as others:
        await asyncio.gather(
            *(stores.jobs.change("edit-a", SESSION, join(f"one-{i}")) for i in range(3)),
            *(others.jobs.change("edit-a", SESSION, join(f"two-{i}")) for i in range(3)),
        )
    job, document = await stores.jobs.get("edit-a"), await stores.jobs.get_session(SESSION)
    assert job is not None
    assert document is not None
    assert sorted(job.deliveries) == ["m1", "one-0", "one-1", "one-2", "two-0", "two-1", "two-2"]
    assert (job.version, document["count"]) == (7, 6)


async def test_what_is_merged_leaves_every_other_field_as_it_was(stores: Stores) -> None:
    foreign = {"pet": {"name": "Rex", "tags": ["old", {"since": 2019}], "vet": None}, "a.b": 1, "é`\\": {"x.y": [1.5]}}
    await put_session(stores, SESSION, {**foreign, "progress": {"ours": "of an earlier time"}, "errorMessage": "old"})
    await submit(stores, make_job())
    document = await stores.jobs.get_session(SESSION)
    ours = {
        "jobId": "edit-a",
        "jobPublishedAt": 100.0,
        "processingStatus": "processing",
        "progress": None,
        "errorMessage": None,
    }
    assert document == {**foreign, **ours}
    running = await claim(stores, 110.0)
    assert running is not None
    shown = running.evolve(progress=Progress(Stage.ENGINE, 3, 28, 1.5))
    await stores.jobs.change(shown.id, SESSION, lambda _job, _document: Write(shown, session_view.describe(shown)))
    document = await stores.jobs.get_session(SESSION)
    progress = {"stage": "engine", "step": 3, "steps": 28, "eta_s": 1.5, "position": None, "decoding": False}
    assert document == {**foreign, **ours, "progress": progress}


@pytest.mark.parametrize("name", ["__reserved__", "__", "-", "_"])
async def test_any_id_that_callers_may_send_can_be_asked_for(stores: Stores, name: str) -> None:
    session = Session(name, name)
    job = await submit(stores, make_job(name, session=session))
    assert await stores.jobs.get(job.id) == job
    assert await stores.jobs.get_session(session) is None
    assert not await stores.jobs.merge_session(session, lambda _document: {"a": 1})
    assert await stores.jobs.get(name) is None


async def test_racing_claims_in_one_process_have_one_winner(stores: Stores) -> None:
    await submit(stores, make_job())
    claims = await asyncio.gather(*(claim(stores, 110.0, f"t{i}") for i in range(20)))
    assert sum(job is not None for job in claims) == 1


async def test_paused_jobs_do_not_hide_a_ready_one(stores: Stores) -> None:
    paused = (make_job(f"paused-{i:02}", created_at=100.0 + i, not_before=500.0) for i in range(45))
    await asyncio.gather(*(submit(stores, job) for job in paused))
    assert await claim(stores, 200.0) is None
    await submit(stores, make_job("ready", created_at=199.0))
    ready = await claim(stores, 200.0)
    assert ready is not None
    assert ready.id == "edit-ready"


async def test_jobs_whose_lease_ran_out_stand_in_the_same_order_as_queued_ones(stores: Stores) -> None:
    for name, created, priority in (("old", 101.0, Priority.NORMAL), ("urgent", 102.0, Priority.URGENT)):
        await submit(stores, make_job(name, created_at=created, priority=priority))
        assert await claim(stores, 110.0, "crashes") is not None
    await submit(stores, make_job("older", created_at=100.0))
    await submit(stores, make_job("newer", created_at=103.0))
    later = 110.0 + SETTINGS.lease_s
    urgent = [await claim(stores, later, urgent_only=True) for _ in range(2)]
    assert [job and job.id for job in urgent] == ["edit-urgent", None]
    rest = [await claim(stores, later) for _ in range(4)]
    assert [job and job.id for job in rest] == ["edit-older", "edit-old", "edit-newer", None]


async def test_backlog_counts_and_ages(stores: Stores) -> None:
    empty = await stores.jobs.backlog(200.0)
    assert (empty.queued, empty.running) == (0, 0)
    assert not any(lane.oldest_queued_s or lane.oldest_running_s for lane in empty.lanes.values())
    for name, created in (("a", 100.0), ("b", 150.0), ("c", 160.0)):
        await submit(stores, make_job(name, created_at=created))
    await claim(stores, 170.0)
    backlog = await stores.jobs.backlog(200.0)
    assert (backlog.queued, backlog.running) == (2, 1)
    assert backlog.lanes[Lane.IMAGES] == LaneBacklog(2, 1, oldest_queued_s=50.0, oldest_running_s=30.0)
    assert backlog.lanes[Lane.HEADSHOTS] == LaneBacklog(0, 0, 0.0, 0.0)


async def test_backlog_tells_engines_and_lanes_apart(stores: Stores) -> None:
    for name, changes in (
        ("old", {}),
        ("flux-1", {"engine": "flux"}),
        ("flux-2", {"engine": "flux"}),
        ("draft", {"engine": "draft"}),
        ("head", {"engine": "headshots", "operation": Operation.HEADSHOT, "session": None, "created_at": 120.0}),
    ):
        await submit(stores, make_job(name, **changes))
    taken = await claim(stores, 170.0, lane=Lane.HEADSHOTS)
    assert taken is not None
    backlog = await stores.jobs.backlog(200.0)
    assert backlog.queued_by_engine == {"": 1, "flux": 2, "draft": 1}
    assert backlog.running_by_engine == {"headshots": 1}
    assert (backlog.queued, backlog.running) == (4, 1)
    assert backlog.lanes[Lane.HEADSHOTS] == LaneBacklog(0, 1, 0.0, oldest_running_s=30.0)
    assert backlog.lanes[Lane.IMAGES].queued == 4


async def test_find_by_status_deadline_and_dead_letter(stores: Stores) -> None:
    await submit(stores, make_job("late", deadline_at=150.0))
    await submit(stores, make_job("fine"))
    overdue = await stores.jobs.find(status=Status.QUEUED, limit=10, before_deadline=151.0)
    assert [job.id for job in overdue] == ["edit-late"]
    failed = transitions.fail(make_job("bad"), 120.0, "mask_empty", "nothing is white")
    await submit(stores, failed)
    await submit(stores, transitions.close(failed.evolve(id="edit-buried")))
    found = await stores.jobs.find(status=Status.FAILED, limit=10, closed=False)
    assert [job.id for job in found] == ["edit-bad"]


async def test_a_watch_shows_changes_and_ends_with_the_job(stores: Stores) -> None:
    await submit(stores, make_job())
    seen: list[Status] = []

    async def watch() -> None:
        async for job in stores.jobs.watch("edit-a"):
            seen.append(job.status)

    async with asyncio.timeout(20):
        watching = asyncio.create_task(watch())
        while seen != [Status.QUEUED]:
            await asyncio.sleep(0.01)
        job = await claim(stores, 110.0)
        assert job is not None
        while Status.PROCESSING not in seen:
            await asyncio.sleep(0.01)
        await end(stores, job, transitions.completing(OUTCOME))
        await watching
    assert seen[-1] is Status.COMPLETED


async def test_a_watch_sees_what_another_client_did(stores: Stores, kind: str, tmp_path: Path) -> None:
    await submit(stores, make_job())
    watching = stores.jobs.watch("edit-a")
    first = await anext(watching)
    async with STORES[kind](tmp_path) as others:
        for _ in range(2):  # the first change may fall into the start of the watch
            job = await claim(others, first.created_at + 10.0)
            assert job is not None
            assert (await asyncio.wait_for(anext(watching), 10)).status is Status.PROCESSING
            await end(others, job, lambda job, token, _now, _superseded: transitions.release(job, token))
            assert (await asyncio.wait_for(anext(watching), 10)).status is Status.QUEUED
        await request_cancel(others, first)
    assert [job.status async for job in watching] == [Status.CANCELLED]


async def test_many_watch_the_same_job_and_all_see_its_end(stores: Stores) -> None:
    job = await submit(stores, make_job())

    async def last() -> Status:
        return [job.status async for job in stores.jobs.watch("edit-a")][-1]

    watching = [asyncio.create_task(last()) for _ in range(5)]
    watching[0].cancel()
    await request_cancel(stores, job)
    ends = await asyncio.wait_for(asyncio.gather(*watching[1:]), 10)
    assert ends == [Status.CANCELLED] * 4


async def test_a_watch_of_an_unknown_job_ends_at_once(stores: Stores) -> None:
    assert [job async for job in stores.jobs.watch("edit-none")] == []


_RACER = """
import asyncio, sys
from pathlib import Path
from tests.contract.conftest import STORES
from tests.contract.test_job_store import claim

async def main(kind, root, token):
    async with STORES[kind](Path(root)) as stores:
        print("ready", flush=True)
        sys.stdin.readline()
        while (job := await claim(stores, 110.0, token)) is not None:
            print(job.id, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_claims_race_from_several_processes_and_each_job_has_one_winner(
    stores: Stores, kind: str, tmp_path: Path
) -> None:
    names = [f"job-{i:02}" for i in range(30)]
    for name in names:
        await submit(stores, make_job(name))
    racers = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _RACER,
            kind,
            str(tmp_path),
            f"racer-{i}",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        for i in range(3)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert await racer.stdout.readline() == b"ready\n"
    outputs = await asyncio.gather(*(racer.communicate(b"go\n") for racer in racers))
    assert [racer.returncode for racer in racers] == [0, 0, 0]
    won = [line for out, _ in outputs for line in out.decode().split()]
    assert sorted(won) == sorted(f"edit-{name}" for name in names)
