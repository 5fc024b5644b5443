"""The Cloud Storage adapter against a server that checks generations and breaks on demand, since the emulator does
neither; against the emulator itself it runs in tests/contract."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Iterator

import pytest
from google.auth.credentials import AnonymousCredentials

from serve_app.errors import ObjectMissing, PhotoTooLarge, PreconditionFailed, StoreUnavailable
from serve_app.google_clients import make_storage_client
from serve_app.photos.gcs import GcsPhotoStore
from serve_app.photos.store import ABSENT
from serve_app.settings_sections import GoogleSettings
from tests.bucket import Bucket, Fault, serve

PATH = "users/u/sessions/s/edited.jpg"
LARGE = bytes(range(256)) * 40_000
"""Above 8 MB the client uploads resumably."""


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def url(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with serve(bucket) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        yield address


def open_store(bucket: str = "photos", **settings: float) -> GcsPhotoStore:
    client = make_storage_client("demo", AnonymousCredentials())
    return GcsPhotoStore(client, bucket, GoogleSettings(**{"timeout_s": 5, "transfer_timeout_s": 5, **settings}))


@pytest.fixture
def store(url: str) -> Iterator[GcsPhotoStore]:
    opened = open_store()
    yield opened
    opened.close()
    opened._bucket.client.close()


async def write(store: GcsPhotoStore, data: bytes, expected: str) -> str:
    return await store.write(PATH, data, content_type="image/jpeg", expected=expected)


@pytest.mark.parametrize("data", [b"", b"one", LARGE], ids=["empty", "small", "resumable"])
async def test_what_was_written_is_read_back(store: GcsPhotoStore, bucket: Bucket, data: bytes) -> None:
    generation = await write(store, data, ABSENT)
    assert await store.stat(PATH) == generation
    found = await store.read(PATH, max_bytes=len(data))
    assert (found.data, found.generation) == (data, generation)
    assert bucket.objects[PATH].content_type == "image/jpeg"


@pytest.mark.parametrize("data", [b"three", LARGE], ids=["small", "resumable"])
async def test_a_write_over_somebody_elses_is_refused_and_changes_nothing(
    store: GcsPhotoStore, bucket: Bucket, data: bytes
) -> None:
    first = await write(store, b"one", ABSENT)
    second = await write(store, b"two", first)
    for stale in (ABSENT, first):
        with pytest.raises(PreconditionFailed, match=f"is of generation {second}, not {stale or 'none'}"):
            await write(store, data, stale)
    assert bucket.objects[PATH].data == b"two"
    assert await store.stat(PATH) == second


async def test_a_write_over_a_vanished_object_is_refused(store: GcsPhotoStore, bucket: Bucket) -> None:
    first = await write(store, b"one", ABSENT)
    del bucket.objects[PATH]
    with pytest.raises(PreconditionFailed, match=f"is of generation none, not {first}"):
        await write(store, b"two", first)


async def test_of_racing_first_writes_one_wins(store: GcsPhotoStore) -> None:
    results = await asyncio.gather(
        *(write(store, bytes([i]) * 1000, ABSENT) for i in range(10)), return_exceptions=True
    )
    assert sum(isinstance(result, str) for result in results) == 1
    assert sum(isinstance(result, PreconditionFailed) for result in results) == 9


@pytest.mark.parametrize("data", [b"one", LARGE], ids=["small", "resumable"])
async def test_an_upload_whose_answer_was_lost_counts_once(store: GcsPhotoStore, bucket: Bucket, data: bytes) -> None:
    begin = ["POST resumable"] if data == LARGE else []
    send = "PUT chunk" if data == LARGE else "POST multipart"
    bucket.faults.extend([*(None for _ in begin), Fault.LOST_ANSWER])
    generation = await write(store, data, ABSENT)
    assert bucket.requests == [*begin, send, send, "GET metadata"]
    assert generation == str(bucket.objects[PATH].generation) == "1700000000000001"


async def test_a_lost_answer_does_not_hide_somebody_elses_write(store: GcsPhotoStore, bucket: Bucket) -> None:
    first = await write(store, b"one", ABSENT)
    bucket.put(PATH, b"somebody else's")
    bucket.faults.append(Fault.LOST_ANSWER)
    with pytest.raises(PreconditionFailed):
        await write(store, b"two", first)
    assert bucket.objects[PATH].data == b"somebody else's"


async def test_a_write_without_precondition_is_not_repeated(store: GcsPhotoStore, bucket: Bucket) -> None:
    bucket.faults.append(Fault.LOST_ANSWER)
    with pytest.raises(StoreUnavailable):
        await store.replace(PATH, b"one")
    assert bucket.requests == ["POST multipart"]
    assert await store.replace(PATH, b"two") == str(bucket.objects[PATH].generation)
    assert bucket.objects[PATH].content_type == "image/jpeg"


async def test_a_busy_server_is_asked_again(store: GcsPhotoStore, bucket: Bucket) -> None:
    bucket.put(PATH, b"one")
    bucket.faults.extend([Fault.BUSY, Fault.BUSY])
    assert await store.stat(PATH) == str(bucket.objects[PATH].generation)
    assert bucket.requests == ["GET metadata"] * 3


async def test_the_size_is_known_before_the_content_is_asked_for(store: GcsPhotoStore, bucket: Bucket) -> None:
    bucket.put(PATH, b"12345")
    with pytest.raises(PhotoTooLarge, match=r"edited\.jpg has 5 bytes; at most 4"):
        await store.read(PATH, max_bytes=4)
    assert bucket.requests == ["GET metadata"]


async def test_content_that_unpacks_beyond_the_bound_is_refused(store: GcsPhotoStore, bucket: Bucket) -> None:
    bucket.put(PATH, gzip.compress(bytes(10**6)), encoding="gzip")
    with pytest.raises(PhotoTooLarge, match=r"edited\.jpg has more than the 100000 bytes"):
        await store.read(PATH, max_bytes=100_000)


async def test_a_broken_download_goes_on_where_it_stopped(store: GcsPhotoStore, bucket: Bucket) -> None:
    bucket.put(PATH, LARGE)
    bucket.faults.extend([None, Fault.HALF])
    assert (await store.read(PATH, max_bytes=len(LARGE))).data == LARGE
    assert bucket.requests == ["GET metadata", "GET download", "GET download"]


async def test_an_object_replaced_before_its_download_is_read_whole(store: GcsPhotoStore, bucket: Bucket) -> None:
    bucket.put(PATH, b"old")
    bucket.before_download.append((PATH, b"newer"))
    found = await store.read(PATH, max_bytes=10)
    assert (found.data, found.generation) == (b"newer", str(bucket.objects[PATH].generation))


async def test_an_object_replaced_again_and_again_is_an_outage(store: GcsPhotoStore, bucket: Bucket) -> None:
    bucket.put(PATH, b"old")
    bucket.before_download.extend((PATH, bytes([i])) for i in range(3))
    with pytest.raises(StoreUnavailable, match="again and again"):
        await store.read(PATH, max_bytes=10)


async def test_a_missing_object_is_named(store: GcsPhotoStore) -> None:
    assert await store.stat(PATH) == ABSENT
    with pytest.raises(ObjectMissing, match=rf"no edited\.jpg at {PATH}"):
        await store.read(PATH, max_bytes=10)


@pytest.mark.parametrize("fault", [Fault.BUSY, Fault.LOST_ANSWER], ids=str)
async def test_a_deletion_is_repeated_until_the_object_is_gone(
    store: GcsPhotoStore, bucket: Bucket, fault: Fault
) -> None:
    bucket.put(PATH, b"one")
    bucket.faults.append(fault)
    await store.delete(PATH)
    assert bucket.objects == {}
    assert bucket.requests == ["DELETE object"] * 2


async def test_a_missing_bucket_is_an_outage_and_no_missing_photo(url: str) -> None:
    store = open_store("typo")
    for call in (
        store.stat(PATH),
        store.read(PATH, max_bytes=1),
        write(store, b"", ABSENT),
        store.replace(PATH, b""),
        store.delete(PATH),
    ):
        with pytest.raises(StoreUnavailable, match="There is no bucket typo"):
            await call
    store.close()


async def test_a_refusal_is_an_outage_without_googles_own_words(store: GcsPhotoStore, bucket: Bucket) -> None:
    for call in (store.stat(PATH), store.read(PATH, max_bytes=1), write(store, b"", ABSENT), store.delete(PATH)):
        bucket.faults.append(Fault.FORBIDDEN)
        with pytest.raises(StoreUnavailable) as caught:
            await call
        assert caught.value.message == f"Cloud Storage did not answer for {PATH}: 403 Forbidden."


async def test_a_silent_server_is_given_up_and_the_event_loop_goes_on(url: str, bucket: Bucket) -> None:
    store = open_store(timeout_s=0.3, transfer_timeout_s=0.3)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.01)

    ticking = asyncio.create_task(tick())
    for call in (store.stat(PATH), store.read(PATH, max_bytes=1), write(store, b"", ABSENT), store.delete(PATH)):
        bucket.faults.append(Fault.SILENCE)
        with pytest.raises(StoreUnavailable):
            await call
    ticking.cancel()
    assert ticks > 9
    store.close()


async def test_a_trickling_download_is_given_up_and_its_thread_freed(url: str, bucket: Bucket) -> None:
    store = open_store(transfer_timeout_s=0.3)
    bucket.put(PATH, bytes(5_000_000))
    bucket.faults.extend([None, Fault.TRICKLE])
    with pytest.raises(StoreUnavailable):
        await store.read(PATH, max_bytes=5_000_000)
    store.close()
    await asyncio.to_thread(store._threads.shutdown, wait=True)
    assert "sent" not in bucket.requests


async def test_an_unreachable_server_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    store = open_store(timeout_s=0.3)
    with pytest.raises(StoreUnavailable):
        await store.stat(PATH)
    store.close()
