"""What every photo store promises.

The Cloud Storage emulator ignores generation preconditions, so what rests on them is shown here for folders only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from serve_app.errors import ObjectMissing, PhotoTooLarge, PreconditionFailed
from serve_app.photos.folder import FolderPhotoStore
from serve_app.photos.mounts import MountedPhotoStore
from serve_app.photos.store import ABSENT
from serve_app.stores import Stores
from tests.contract.conftest import STORES, open_embedded

PATH = "users/u/sessions/s/edited.jpg"

folders_only = pytest.mark.parametrize("kind", ["embedded", "mounted"], indirect=True)


@asynccontextmanager
async def open_mounted(root: Path) -> AsyncIterator[Stores]:
    """The embedded stores; what the tests write lies in a folder of its own, and so does what they never name."""
    async with open_embedded(root) as stores:
        mounts = {prefix: FolderPhotoStore(root / prefix[:5] / "mount") for prefix in ("users/u/", "other/")}
        yield replace(stores, photos=MountedPhotoStore(stores.photos, mounts))


@pytest.fixture(params=[*STORES, "mounted"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "gcp":
        request.getfixturevalue("emulators")
    return str(request.param)


@pytest.fixture
async def stores(kind: str, tmp_path: Path) -> AsyncIterator[Stores]:
    async with (open_mounted if kind == "mounted" else STORES[kind])(tmp_path) as opened:
        yield opened


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


@folders_only
async def test_a_write_over_somebody_elses_is_refused_and_changes_nothing(stores: Stores) -> None:
    first = await write(stores, b"one", ABSENT)
    second = await write(stores, b"two", first)
    for stale in (ABSENT, first):
        with pytest.raises(PreconditionFailed):
            await write(stores, b"three", stale)
    assert (await stores.photos.read(PATH, max_bytes=10)).data == b"two"
    assert await stores.photos.stat(PATH) == second


@folders_only
async def test_of_racing_first_writes_one_wins(stores: Stores) -> None:
    results = await asyncio.gather(
        *(write(stores, bytes([i]) * 1000, ABSENT) for i in range(10)), return_exceptions=True
    )
    assert sum(isinstance(result, str) for result in results) == 1
    assert sum(isinstance(result, PreconditionFailed) for result in results) == 9


async def test_a_missing_object_is_named(stores: Stores) -> None:
    with pytest.raises(ObjectMissing, match=r"no edited\.jpg at (users/u/)?sessions/s/edited\.jpg"):
        await stores.photos.read(PATH, max_bytes=10)


async def test_a_read_is_bounded(stores: Stores) -> None:
    await write(stores, b"12345", ABSENT)
    with pytest.raises(PhotoTooLarge, match="5 bytes; at most 4"):
        await stores.photos.read(PATH, max_bytes=4)


async def test_a_deleted_object_is_gone_and_deleting_it_again_is_nothing(stores: Stores) -> None:
    await write(stores, b"one", ABSENT)
    for _ in range(2):
        await stores.photos.delete(PATH)
        assert await stores.photos.stat(PATH) == ABSENT
