"""Orders of headshots that meet: names, places, the same key or id from several sides."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.headshot_schemas import UploadRequest
from serve_app.errors import Conflict, InvalidMessage, NotFound, StoreUnavailable
from serve_app.jobs import headshot_names
from serve_app.jobs.headshot_names import EXTENSIONS, derive_headshot_id, draw_ticket, is_ticket, make_safe
from serve_app.jobs.headshot_orders import HeadshotSubmitter, UploadOrder
from serve_app.jobs.model import Job, Status
from serve_app.photos.links import check_path
from serve_app.photos.media_types import HEADSHOT_TYPES
from serve_app.photos.store import ABSENT, StoredObject
from serve_app.settings import Settings
from serve_app.settings_sections import GoogleSettings
from tests.headshot_orders import (
    KEY,
    OTHER,
    PHOTO,
    SAFE,
    TICKETED,
    give,
    message,
    open_bench,
    order,
    originals,
    put,
    read_output,
)
from tests.photos import make_photo

# -- names -------------------------------------------------------------------------------------------------------------


@given(st.text(max_size=300), st.sampled_from(sorted(EXTENSIONS)))
def test_every_name_becomes_a_safe_one(name: str, media_type: str) -> None:
    safe = make_safe(name, media_type)
    assert SAFE.fullmatch(safe)
    assert len(safe) <= headshot_names.NAME_CHARACTERS
    assert safe.endswith(f".{EXTENSIONS[media_type]}")
    check_path(f"headshots/originals/x/original/{safe}")


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("Rex & me.jpeg", "Rex_me.jpg"),
        ("../../etc/passwd", "passwd.jpg"),
        ("C:\\pets\\Rex.JPG", "Rex.jpg"),
        ("a.b.c.png", "a_b_c.jpg"),
        ("", "photo.jpg"),
        ("..", "photo.jpg"),
        ("猫.jpg", "photo.jpg"),
        (".jpg", "jpg.jpg"),
        ("a\x00b\r\n.jpg", "a_b.jpg"),
        ("x" * 300, "x" * 96 + ".jpg"),
    ],
)
def test_safe_names(name: str, safe: str) -> None:
    assert make_safe(name, "image/jpeg") == safe


def test_an_id_is_the_callers_and_the_keys() -> None:
    ids = {derive_headshot_id(owner, key) for owner in ("ann", "bob") for key in ("1", "2")}
    assert len(ids) == 4
    assert derive_headshot_id("ann", "1") in ids
    assert derive_headshot_id("ann", None) != derive_headshot_id("ann", None)
    assert not any(is_ticket("ann", each) for each in (*ids, derive_headshot_id("ann", None)))


def test_a_ticket_is_its_callers_alone() -> None:
    tickets = {draw_ticket("ann") for _ in range(50)}
    assert len(tickets) == 50
    assert all(re.fullmatch(r"headshot-[0-9a-f]{32}", each) for each in tickets)
    assert all(is_ticket("ann", each) and not is_ticket("bob", each) for each in tickets)
    assert not is_ticket("ann", TICKETED[:-1] + ("0" if TICKETED[-1] != "0" else "1"))


def test_one_list_of_types() -> None:
    assert set(HEADSHOT_TYPES) <= set(EXTENSIONS)
    assert set(get_args(UploadRequest.model_fields["content_type"].annotation)) == set(EXTENSIONS)


# -- places ------------------------------------------------------------------------------------------------------------

IMPOSSIBLE = [
    "perkie-1/original/a\x00b.jpg",
    "perkie-1/original/a\nb.jpg",
    "perkie-1/original/a\u2028b.jpg",
    "perkie-1/original/" + "x" * 256,
    "perkie-1/original/" + "é" * 128,
    "/".join(["perkie-1/original", *["é" * 100] * 5]),
    "perkie-1/original/",
    "/perkie-1/original/a",
    "perkie-1/./a",
    "perkie-1/../a",
]


@pytest.mark.parametrize("key", IMPOSSIBLE)
async def test_a_place_that_no_store_has_is_never_asked_for(tmp_path: Path, key: str) -> None:
    """A push about one would be answered with an error, and delivered for ever."""
    async with open_bench(tmp_path, start=False) as (bench, _):
        await put(bench)
        with pytest.raises(InvalidMessage, match="orig_key"):
            await bench.headshots.submit_upload(message(key=key))


@pytest.mark.parametrize("key", ["perkie-1/original/" + "x" * 255, "a/Rex & Ünal's \U0001f436.jpg", "a"])
async def test_a_publisher_names_its_files_as_it_likes(tmp_path: Path, key: str) -> None:
    async with open_bench(tmp_path) as (bench, engine):
        engine.script = [give()]
        await put(bench, key=key)
        job = await bench.headshots.submit_upload(message(key=key))
        assert (await bench.finish(job)).status is Status.COMPLETED


@pytest.mark.parametrize("job_id", ["perkie-1", "headshot-1", "edit-" + "0" * 32, TICKETED + "0"])
async def test_a_caller_names_only_what_it_was_given(tmp_path: Path, job_id: str) -> None:
    """Ids that publishers choose can be guessed, and whose they are nobody knows."""
    async with open_bench(tmp_path, start=False) as (bench, _):
        key = f"{job_id}/original/rex.jpg"
        await put(bench, key=key)
        with pytest.raises(InvalidMessage, match="job_id"):
            await bench.headshots.submit_upload(UploadOrder(job_id, "local", key, "bob"))
        assert await bench.stores.jobs.get(job_id) is None


async def test_a_ticket_is_good_for_a_caller_or_a_message_whoever_is_first(tmp_path: Path) -> None:
    async with open_bench(tmp_path, start=False) as (bench, _):
        key = f"{TICKETED}/original/rex.jpg"
        by_ann, by_bob = (UploadOrder(TICKETED, "local", key, owner) for owner in ("ann", "bob"))
        with pytest.raises(NotFound):
            await bench.headshots.submit_upload(by_ann)
        await put(bench, key=key)
        outcomes = await asyncio.gather(
            *(bench.headshots.submit_upload(each) for each in (by_ann, by_bob, message(key=key, job_id=TICKETED))),
            return_exceptions=True,
        )
        assert sorted(type(each).__name__ for each in outcomes) == ["Conflict", "InvalidMessage", "Job"]
        (job,) = (each for each in outcomes if isinstance(each, Job))
        assert await bench.stores.jobs.get(TICKETED) == job
        assert job.version == 1, "who was refused has written nothing"


@pytest.mark.parametrize(
    ("given", "bucket", "key", "path"),
    [
        ({"env": "gcp", "project_id": "p"}, "p.appspot.com", "headshots/originals/a/original/b", None),
        ({"env": "gcp", "project_id": "p"}, "p.appspot.com", "users/u/sessions/s/original.jpg", InvalidMessage),
        (
            {"env": "gcp", "project_id": "p", "google": GoogleSettings(headshot_originals="in")},
            "in",
            "a/original/b",
            None,
        ),
    ],
)
async def test_keys_are_those_of_the_bucket(
    tmp_path: Path, given: dict[str, object], bucket: str, key: str, path: type[Exception] | None
) -> None:
    async with open_bench(tmp_path, start=False) as (bench, _):
        local = bench.headshots
        submitter = HeadshotSubmitter(local._jobs, local._photos, bucket, Settings(**given), local._clock)
        wish = UploadOrder("perkie-1", bucket, key, delivery="m1")
        if path is not None:
            with pytest.raises(path, match="orig_key"):
                await submitter.submit_upload(wish)
            return
        assert (await submitter.submit_upload(wish)).original_path == "headshots/originals/a/original/b"
        place = submitter.choose_place("a", "b.jpg", "image/jpeg")
        assert (place.bucket, place.key) == (bucket, key + ".jpg")


# -- the same key, the same id -----------------------------------------------------------------------------------------


async def test_the_same_photo_under_several_names_at_once_is_kept_once(tmp_path: Path) -> None:
    async with open_bench(tmp_path, start=False) as (bench, _):
        names = [f"{index // 2}.jpg" for index in range(8)]
        jobs = await asyncio.gather(*(bench.headshots.submit_photo(order(name=name)) for name in names))
        assert len({job.id for job in jobs}) == 1
        job = await bench.stores.jobs.get(jobs[0].id)
        assert job is not None
        assert [f"headshots/originals/{path}" for path in originals(tmp_path)] == [job.original_path]
        assert await bench.stores.photos.stat(job.original_path or "") == job.original_generation


async def test_another_photo_under_the_same_key_leaves_nothing(tmp_path: Path) -> None:
    async with open_bench(tmp_path, start=False) as (bench, _):
        submit = bench.headshots.submit_photo
        outcomes = await asyncio.gather(
            submit(order(PHOTO, "a.jpg")), submit(order(OTHER, "b.jpg")), return_exceptions=True
        )
        assert sorted(type(each).__name__ for each in outcomes) == ["Conflict", "Job"]
        assert len(originals(tmp_path)) == 1
        with pytest.raises(Conflict):
            await submit(order(make_photo(seed=3), "c.jpg"))
        assert len(originals(tmp_path)) == 1


async def test_a_repeat_stores_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By then its job's files may be being deleted."""
    async with open_bench(tmp_path, start=False) as (bench, _):
        job = await bench.headshots.submit_photo(order())

        async def refuse(*_: object, **__: object) -> str:
            raise StoreUnavailable("It is out.")

        monkeypatch.setattr(bench.stores.photos, "write", refuse)
        assert await bench.headshots.submit_photo(order(name="again.jpg")) == job
        with pytest.raises(Conflict, match="another photo"):
            await bench.headshots.submit_photo(order(OTHER))


async def test_a_callers_id_stands_for_one_place(tmp_path: Path) -> None:
    async with open_bench(tmp_path, start=False) as (bench, _):
        keys = [f"{TICKETED}/original/{name}.jpg" for name in ("a", "b")]
        for key in keys:
            await put(bench, key=key)
        await bench.headshots.submit_upload(UploadOrder(TICKETED, "local", keys[0], "ann"))
        with pytest.raises(Conflict):
            await bench.headshots.submit_upload(UploadOrder(TICKETED, "local", keys[1], "ann"))
        found = await bench.stores.jobs.get(TICKETED)
        assert found is not None
        assert (found.version, found.original_path) == (1, f"headshots/originals/{keys[0]}")


@pytest.mark.parametrize("finish_first", [False, True])
async def test_a_publisher_may_send_the_photo_again_under_another_name(tmp_path: Path, finish_first: bool) -> None:
    async with open_bench(tmp_path, start=finish_first) as (bench, engine):
        engine.script = [give(b" 1"), give(b" 2")] if finish_first else [give(b" 2")]
        keys = [f"perkie-1/original/{name}.jpg" for name in ("a", "b")]
        for key, photo in zip(keys, (PHOTO, OTHER), strict=True):
            await put(bench, photo, key=key)
        first = await bench.headshots.submit_upload(message("m1", keys[0]))
        if finish_first:
            await bench.finish(first)
        again = await bench.headshots.submit_upload(message("m2", keys[1]))
        assert again.original_path == f"headshots/originals/{keys[1]}"
        if not finish_first:
            bench.lanes.start()
        ended = await bench.finish(again)
        assert (ended.status, await read_output(bench, ended, "print")) == (Status.COMPLETED, b"print 2")
        assert engine.requests[-1].photo == OTHER  # type: ignore[attr-defined]


async def test_a_job_remembers_what_asked_for_it(tmp_path: Path) -> None:
    async with open_bench(tmp_path, start=False) as (bench, _):
        job = await bench.headshots.submit_upload(
            UploadOrder("perkie-1", "local", KEY, delivery="m1", message="e30=", published_at=5.0)
        )
        assert (job.owner, job.deliveries, job.message, job.published_at) == ("", ("m1",), "e30=", 5.0)
        ttl, waits = bench.settings.headshots.ttl_s, bench.settings.jobs.deadline_s
        assert (job.deadline_at - job.created_at, job.expires_at) == (waits, job.deadline_at + ttl)
        unknown = await bench.headshots.submit_upload(UploadOrder("perkie-2", "local", KEY, delivery="m2"))
        assert unknown.published_at == unknown.created_at


async def test_a_photo_without_its_job_is_found_again_by_its_key(tmp_path: Path) -> None:
    """The service died after it had stored the original."""
    async with open_bench(tmp_path) as (bench, engine):
        engine.script = [give()]
        job_id = derive_headshot_id("ann", "k")
        await put(bench, key=f"{job_id}/original/rex.jpg")
        with pytest.raises(Conflict):
            await bench.headshots.submit_photo(order(OTHER))
        job = await bench.headshots.submit_photo(order())
        assert (await bench.finish(job)).status is Status.COMPLETED
        assert originals(tmp_path) == [f"{job_id}/original/rex.jpg"]


async def test_a_photo_that_is_taken_away_again_meanwhile_is_stored_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one who had stored the same under this name, and lost against one with another name."""
    async with open_bench(tmp_path, start=False) as (bench, _):
        path = f"headshots/originals/{derive_headshot_id('ann', 'k')}/original/rex.jpg"
        await put(bench, key=path.removeprefix("headshots/originals/"))
        read = bench.stores.photos.read

        async def read_late(path: str, *, max_bytes: int) -> StoredObject:
            await bench.stores.photos.delete(path)
            return await read(path, max_bytes=max_bytes)

        monkeypatch.setattr(bench.stores.photos, "read", read_late)
        job = await bench.headshots.submit_photo(order())
        assert job.original_path == path
        assert await bench.stores.photos.stat(path) == job.original_generation != ABSENT
