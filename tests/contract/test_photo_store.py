"""What every photo store promises.

The Cloud Storage emulator ignores generation preconditions, so what rests on them is shown here for the folder only.
"""

from __future__ import annotations

import asyncio

import pytest

from serve_app.errors import ObjectMissing, PhotoTooLarge, PreconditionFailed
from serve_app.photos.store import ABSENT
from serve_app.stores import Stores
from tests.contract.conftest import embedded_only

PATH = "users/u/sessions/s/edited.jpg"


async def write(stores: Stores, data: bytes, expected: str) -> str:
    return await stores.photos.write(PATH, data, content_type="image/jpeg", expected=expected)


async def test_what_was_written_is_read_back_with_its_generation(stores: Stores) -> None:
    assert await stores.photos.stat(PATH) == ABSENT
    generation = await write(stores, b"one", ABSENT)
    assert generation != ABSENT
    assert await stores.photos.stat(PATH) == generation
    found = await stores.photos.read(PATH, max_bytes=3)
    assert (found.data, found.generation) == (b"one", generation)


async def test_every_write_makes_a_new_generation(stores: Stores) -> None:
    generations = [await write(stores, b"same", ABSENT)]
    for _ in range(20):
        generations.append(await write(stores, b"same", generations[-1]))
    assert len(set(generations)) == 21


@embedded_only
async def test_a_write_over_somebody_elses_is_refused_and_changes_nothing(stores: Stores) -> None:
    first = await write(stores, b"one", ABSENT)
    second = await write(stores, b"two", first)
    for stale in (ABSENT, first):
        with pytest.raises(PreconditionFailed):
            await write(stores, b"three", stale)
    assert (await stores.photos.read(PATH, max_bytes=10)).data == b"two"
    assert await stores.photos.stat(PATH) == second


@embedded_only
async def test_of_racing_first_writes_one_wins(stores: Stores) -> None:
    results = await asyncio.gather(
        *(write(stores, bytes([i]) * 1000, ABSENT) for i in range(10)), return_exceptions=True
    )
    assert sum(isinstance(result, str) for result in results) == 1
    assert sum(isinstance(result, PreconditionFailed) for result in results) == 9


async def test_a_missing_object_is_named(stores: Stores) -> None:
    with pytest.raises(ObjectMissing, match=r"no edited\.jpg at users/u/sessions/s/edited\.jpg"):
        await stores.photos.read(PATH, max_bytes=10)


async def test_a_read_is_bounded(stores: Stores) -> None:
    await write(stores, b"12345", ABSENT)
    with pytest.raises(PhotoTooLarge, match="5 bytes; at most 4"):
        await stores.photos.read(PATH, max_bytes=4)
