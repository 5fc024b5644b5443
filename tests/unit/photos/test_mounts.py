"""Which store a path leads to."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.photos.folder import FolderPhotoStore
from serve_app.photos.mounts import MountedPhotoStore
from serve_app.photos.store import ABSENT
from serve_app.settings_sections import GoogleSettings
from serve_app.stores import list_buckets

MOUNTS = ("headshots/originals/", "headshots/outputs/")


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("headshots/originals/job/original/dog.jpg", "headshots-originals/job/original/dog.jpg"),
        ("headshots/outputs/job/outputs/print.png", "headshots-outputs/job/outputs/print.png"),
        ("headshots/outputs/headshots/originals/x", "headshots-outputs/headshots/originals/x"),
        ("users/headshots/originals/x", "default/users/headshots/originals/x"),
        ("headshots/originals", "default/headshots/originals"),
        ("headshots/originalsx/y", "default/headshots/originalsx/y"),
        ("jobs/1", "default/jobs/1"),
    ],
)
async def test_a_path_leads_to_the_store_of_its_prefix(tmp_path: Path, path: str, place: str) -> None:
    mounts = {prefix: FolderPhotoStore(tmp_path / prefix.strip("/").replace("/", "-")) for prefix in MOUNTS}
    store = MountedPhotoStore(FolderPhotoStore(tmp_path / "default"), mounts)
    generation = await store.write(path, b"one", content_type="image/jpeg", expected=ABSENT)
    files = [file for file in tmp_path.rglob("*") if file.is_file() and file.name != ".lock"]
    assert files == [tmp_path / place]
    assert await store.stat(path) == generation
    assert (await store.read(path, max_bytes=3)).data == b"one"
    await store.delete(path)
    assert await store.stat(path) == ABSENT


async def test_a_prefix_alone_is_no_path_of_its_store(tmp_path: Path) -> None:
    inner = FolderPhotoStore(tmp_path / "inner")
    store = MountedPhotoStore(FolderPhotoStore(tmp_path / "default"), {MOUNTS[0]: inner})
    assert await store.stat(MOUNTS[0]) == ABSENT  # of the default store, not the inner one's root


def test_only_buckets_that_are_named_are_mounted() -> None:
    assert list_buckets(GoogleSettings()) == {}
    assert list_buckets(GoogleSettings(headshot_outputs="out")) == {"headshots/outputs/": "out"}
    assert list_buckets(GoogleSettings(headshot_originals="in", headshot_outputs="out")) == {
        "headshots/originals/": "in",
        "headshots/outputs/": "out",
    }
