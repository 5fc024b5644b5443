"""How much one caller gets: requests in a minute, jobs at a time, and when it is told to come again."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from ingress.allowance import Allowance
from ingress.api_keys import ApiKeys, draw_key, hash_key
from ingress.auth import KeyedCalls, LocalTrust, VerifiedCaller
from ingress.rate_limits import (
    OVERDUE_SHARE,
    READS_PER_SUBMISSION,
    RECENT_JOBS,
    UNMEASURED_S,
    RateLimits,
    count_active,
    expect_end,
)
from serve_app.clock import SystemClock
from serve_app.errors import TooManyRequests
from serve_app.jobs.model import Job, Parameters, Session, Status
from serve_app.jobs.store import JobStore, Write
from serve_app.photos.store import ABSENT
from serve_app.settings import Settings
from serve_app.settings_sections import CallerSettings
from serve_app.stores import Stores, open_stores
from tests.api import Api, open_api
from tests.tokens import NOW, HandClock

KEY = draw_key()
OTHER = draw_key()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HandClock:
    """The time of the limits' library, too."""
    clock = HandClock()
    for module in ("limits.aio.storage.memory", "limits.aio.strategies"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(time=clock.now))
    return clock


def make_caller(name: str = "shop", **allowance: Any) -> VerifiedCaller:
    return VerifiedCaller(f"key:{name}", Allowance(**allowance))


def make_job(number: int, created_at: float, ended_at: float | None = None, **changes: Any) -> Job:
    status = Status.QUEUED if ended_at is None else Status.COMPLETED
    given = {"owner": "key:shop", "status": status, "finished_at": ended_at, **changes}
    return Job(
        id=f"job-{number}",
        session=None,
        original_generation=ABSENT,
        mask_generation=ABSENT,
        parameters=Parameters("draft", "a dog", 1, 1.0),
        created_at=created_at,
        published_at=created_at,
        deadline_at=created_at + 3600,
        **given,
    )


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    stores = open_stores(Settings(data_dir=tmp_path))
    yield stores
    await stores.close()


async def put(store: JobStore, *jobs: Job) -> None:
    for job in jobs:
        await store.change(job.id, None, lambda found, document, job=job: Write(job))  # type: ignore[misc]


# -- requests ------------------------------------------------------------------------------------------------------


async def submit(limits: RateLimits, caller: VerifiedCaller, jobs: JobStore) -> int:
    """Seconds to wait, 0 when let in."""
    try:
        async with limits.submitting(caller, jobs):
            return 0
    except TooManyRequests as error:
        return error.retry_after_s


async def test_who_comes_again_when_told_is_let_in_and_not_before(clock: HandClock, stores: Stores) -> None:
    limits, caller = RateLimits(clock), make_caller(requests_per_minute=6)
    clock.time += 7  # into a window
    assert [await submit(limits, caller, stores.jobs) for _ in range(6)] == [0] * 6
    for _ in range(10):
        wait = await submit(limits, caller, stores.jobs)
        assert 1 <= wait <= 61
        early = max(wait - 1.01, 0)
        clock.time += early
        assert await submit(limits, caller, stores.jobs) > 0
        clock.time += wait - early
        assert await submit(limits, caller, stores.jobs) == 0


async def test_a_caller_has_its_limit_and_no_more_in_any_minute(clock: HandClock, stores: Stores) -> None:
    limits, caller = RateLimits(clock), make_caller(requests_per_minute=30)
    let_in: list[float] = []
    for _ in range(600):
        if await submit(limits, caller, stores.jobs) == 0:
            let_in.append(clock.time)
        clock.time += 0.5
    assert 0.9 * 150 <= len(let_in) <= 180  # of five minutes; the window is weighted, not exact
    assert all(sum(at <= other < at + 60 for other in let_in) <= 31 for at in let_in)


async def test_callers_do_not_take_from_one_another(clock: HandClock, stores: Stores) -> None:
    limits = RateLimits(clock)
    loud, quiet = make_caller("loud", requests_per_minute=2), make_caller("quiet", requests_per_minute=2)
    assert [await submit(limits, loud, stores.jobs) > 0 for _ in range(5)] == [False, False, True, True, True]
    assert [await submit(limits, quiet, stores.jobs) > 0 for _ in range(2)] == [False, False]


async def test_other_requests_have_a_larger_limit_of_their_own(clock: HandClock, stores: Stores) -> None:
    limits, caller = RateLimits(clock), make_caller(requests_per_minute=2)
    for _ in range(2 * READS_PER_SUBMISSION):
        await limits.count_request(caller)
    with pytest.raises(TooManyRequests, match="More than 40 requests came from key:shop"):
        await limits.count_request(caller)
    assert await submit(limits, caller, stores.jobs) == 0


async def test_who_has_no_limits_is_not_counted(clock: HandClock) -> None:
    class NoStore:
        async def list_owned(self, owner: str, *, limit: int) -> list[Job]:
            raise AssertionError("asked")

    limits = RateLimits(clock)
    for _ in range(500):
        await limits.count_request(make_caller())
        async with limits.submitting(make_caller(), NoStore()):
            pass


# -- jobs ----------------------------------------------------------------------------------------------------------


async def test_jobs_that_have_not_ended_are_counted_across_restarts(clock: HandClock, stores: Stores) -> None:
    caller = make_caller(concurrent_jobs=3)
    await put(stores.jobs, make_job(1, NOW - 9, NOW - 1), make_job(2, NOW - 8), make_job(3, NOW - 7))
    await put(stores.jobs, *(make_job(10 + number, NOW - 7, owner="key:other") for number in range(5)))
    assert await submit(RateLimits(clock), caller, stores.jobs) == 0
    await put(stores.jobs, make_job(4, NOW - 6, status=Status.PROCESSING))
    with pytest.raises(TooManyRequests, match="key:shop has 3 jobs that have not ended; at most 3 are accepted"):
        async with RateLimits(clock).submitting(caller, stores.jobs):
            pass
    await put(stores.jobs, make_job(2, NOW - 8, NOW, status=Status.CANCELLED))
    assert await submit(RateLimits(clock), caller, stores.jobs) == 0


@pytest.mark.parametrize(("most", "under_way", "burst"), [(4, 0, 10), (4, 3, 10), (4, 4, 10), (4, 1, 2), (1, 0, 3)])
async def test_a_burst_gets_the_places_there_are(
    clock: HandClock, stores: Stores, most: int, under_way: int, burst: int
) -> None:
    limits, caller = RateLimits(clock), make_caller(concurrent_jobs=most)
    await put(stores.jobs, *(make_job(number, NOW - 5) for number in range(under_way)))
    answered = asyncio.Event()

    async def ask(number: int) -> int:
        try:
            async with limits.submitting(caller, stores.jobs):
                await put(stores.jobs, make_job(100 + number, clock.now()))
                await answered.wait()  # until the last has asked: what is answered and its job are counted once
                return 0
        except TooManyRequests as error:
            return error.retry_after_s

    asked = [asyncio.create_task(ask(number)) for number in range(burst)]
    await asyncio.wait(asked, timeout=0.3)
    answered.set()
    waits = await asyncio.gather(*asked)
    assert waits.count(0) == min(burst, most - under_way)
    clock.time += 1
    assert (await submit(limits, caller, stores.jobs) == 0) == (burst < most - under_way)


async def test_a_request_that_fails_gives_its_place_back(clock: HandClock, stores: Stores) -> None:
    limits, caller = RateLimits(clock), make_caller(concurrent_jobs=1)
    for _ in range(3):
        with pytest.raises(ValueError, match="no job"):
            async with limits.submitting(caller, stores.jobs):
                raise ValueError("no job came of it")


@pytest.mark.parametrize(
    ("created", "submitting", "active"),
    [
        ([], [], 0),
        ([1, 2, 3], [], 3),
        ([], [5, 6], 2),
        ([1, 2], [5, 6], 4),  # none of the two has its job yet
        ([1, 2, 5.5], [5, 6], 4),  # one has
        ([1, 2, 5.5, 6.5], [5, 6], 4),  # both have
        ([1, 2, 5.5, 6.5, 7], [5, 6], 5),  # and a third was answered meanwhile
        ([1, 6], [0], 2),
    ],
)
def test_a_request_and_the_job_that_came_of_it_are_one(
    created: list[float], submitting: list[float], active: int
) -> None:
    jobs = [make_job(number, at) for number, at in enumerate(created)]
    assert count_active([*jobs, make_job(99, 0.5, 6.0)], submitting) == active


def ended(seconds: float, number: int) -> Job:
    return make_job(100 + number, NOW - 900, NOW - 900 + seconds)


@pytest.mark.parametrize(
    ("usual", "ages", "expected"),
    [
        ([], [0.0], UNMEASURED_S),
        ([], [], UNMEASURED_S),
        ([40.0], [0.0], 40),
        ([20.0, 60.0], [3.0, 10.0, 5.0], 30),  # the oldest ends first
        ([40.0], [39.0], 40 * OVERDUE_SHARE),
        ([40.0], [500.0], 40 * OVERDUE_SHARE),
        ([40.0], [-3.0], 43),  # the clock of another machine
    ],
)
def test_a_place_is_expected_by_how_long_jobs_have_taken(
    usual: list[float], ages: list[float], expected: float
) -> None:
    jobs = [ended(seconds, number) for number, seconds in enumerate(usual)]
    jobs += [make_job(number, NOW - age) for number, age in enumerate(ages)]
    unfit = [
        make_job(200, NOW - 900, NOW - 899, status=Status.CANCELLED),
        make_job(201, NOW - 900, NOW - 899, status=Status.FAILED),
    ]
    assert expect_end([*jobs, *unfit], NOW) == pytest.approx(expected)


async def test_who_is_at_its_limit_is_told_the_measured_time(clock: HandClock, stores: Stores) -> None:
    limits, caller = RateLimits(clock), make_caller(concurrent_jobs=1)
    await put(stores.jobs, make_job(0, NOW - 8), ended(30, 1), ended(60, 2))
    assert await submit(limits, caller, stores.jobs) == 45 - 8 + 1  # rounded up
    older = [make_job(300 + number, NOW - 2000, NOW - 1000) for number in range(RECENT_JOBS)]
    await put(stores.jobs, *older)  # of these only as many as fit beside the newer ones
    assert await submit(limits, caller, stores.jobs) > 500


# -- over HTTP -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def open_keyed(root: Path, **limits: int) -> AsyncIterator[Api]:
    file = root / "keys.json"
    rows = [("shop", KEY, limits), ("other", OTHER, {})]
    file.write_text(json.dumps([{"name": n, "sha256": hash_key(k), "users": ["*"], **more} for n, k, more in rows]))
    trust = KeyedCalls(ApiKeys(CallerSettings(keys_file=file), SystemClock()), LocalTrust())
    async with open_api(root, trust=trust) as api:
        await api.bench.put_session()
        yield api


async def edit(api: Api, key: str, session: str = "session", method: str = "POST") -> httpx.Response:
    path = f"/v1/users/user/sessions/{session}/edit"
    return await api.http.request(method, path, headers={"Authorization": f"Bearer {key}"})


def expect_too_many(response: httpx.Response, words: str) -> None:
    assert response.status_code == 429, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert int(response.headers["retry-after"]) >= 1
    body = response.json()
    assert (body["type"], body["title"]) == ("urn:pawfect:problem:too_many_requests", "Too Many Requests")
    assert words in body["detail"]


async def test_too_many_requests_for_work_are_refused_and_others_served(tmp_path: Path, clock: HandClock) -> None:
    async with open_keyed(tmp_path, requests_per_minute=2) as api:
        assert [(await edit(api, KEY)).status_code for _ in range(2)] == [200, 200]
        expect_too_many(await edit(api, KEY), "More than 2 requests for work came from key:shop within a minute.")
        assert (await edit(api, KEY, method="GET")).status_code == 200
        assert (await edit(api, OTHER)).status_code == 200
        assert len(api.engine.requests) == 1  # all of these were the same edit


async def test_whoever_only_asks_is_stopped_in_the_end(tmp_path: Path, clock: HandClock) -> None:
    async with open_keyed(tmp_path, requests_per_minute=1) as api:
        answers = [await edit(api, KEY, method="GET") for _ in range(READS_PER_SUBMISSION)]
        assert {answer.status_code for answer in answers} == {200}
        for method in ("GET", "DELETE", "POST"):
            expect_too_many(await edit(api, KEY, method=method), "More than 20 requests came from key:shop")
        assert (await edit(api, OTHER, method="GET")).status_code == 200


async def test_a_second_edit_beside_one_under_way_is_refused_until_that_has_ended(tmp_path: Path) -> None:
    async with open_keyed(tmp_path, concurrent_jobs=1) as api:
        await api.bench.put_session(session=Session("user", "second"))
        api.engine.gate.clear()
        first = asyncio.create_task(edit(api, KEY))
        async with asyncio.timeout(10):
            while not api.engine.requests:
                await asyncio.sleep(0.01)
        expect_too_many(await edit(api, KEY, "second"), "key:shop has 1 jobs that have not ended; at most 1")
        assert (await edit(api, KEY, method="GET")).status_code == 200
        api.engine.gate.set()
        assert (await first).status_code == 200
        assert (await edit(api, KEY, "second")).status_code == 200


def test_the_error_travels_whole() -> None:
    error = pickle.loads(pickle.dumps(TooManyRequests("Too many.", 7)))  # noqa: S301
    assert (type(error), error.message, error.retry_after_s) == (TooManyRequests, "Too many.", 7)
