"""Embeddings on disk: what comes back, and what is never taken for an embedding."""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from serve_app.flux.prompt_files import LEFTOVER_S, MAX_FILE_BYTES, Encoding, PromptFolder
from serve_app.flux.text import TextEmbedding

ENCODING = Encoding("rev1", torch.bfloat16, (4, 8))
PLENTY = 1 << 20
PROMPT = "no leash, no rope"


def make_embedding(seed: int = 0, length: int = 4, dtype: torch.dtype = torch.bfloat16) -> TextEmbedding:
    generator = torch.Generator().manual_seed(seed)
    tokens, pooled = (torch.randn(shape, generator=generator).to(dtype) for shape in ((length, 6), (5,)))
    return TextEmbedding(tokens=tokens, pooled=pooled)


def equal(a: TextEmbedding, b: TextEmbedding) -> bool:
    pairs = ((a.tokens, b.tokens), (a.pooled, b.pooled))
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


def open_folder(folder: Path, encoding: Encoding = ENCODING, *, max_bytes: int | None = PLENTY) -> PromptFolder:
    return PromptFolder(folder, encoding, max_bytes=max_bytes)


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("length", [4, 8])
def test_an_embedding_comes_back_exactly(tmp_path: Path, dtype: torch.dtype, length: int) -> None:
    encoding, embedding = replace(ENCODING, dtype=dtype), make_embedding(1, length, dtype)
    assert open_folder(tmp_path, encoding).write(PROMPT, embedding)
    read = open_folder(tmp_path, encoding).read(PROMPT)
    assert read is not None
    assert equal(read, embedding)
    assert not equal(read, make_embedding(2, length, dtype))


@pytest.mark.parametrize("prompt", ["", " ", "a\nb\x00c", "ein Hund – 犬 🐕", '{"a": "b"}', "x" * 2000])
def test_any_prompt_can_be_kept(tmp_path: Path, prompt: str) -> None:
    folder = open_folder(tmp_path)
    assert folder.read(prompt) is None
    assert folder.write(prompt, make_embedding())
    read = folder.read(prompt)
    assert read is not None
    assert equal(read, make_embedding())


def test_parts_of_larger_tensors_are_kept_alone(tmp_path: Path) -> None:
    whole = torch.randn(64, 12, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    part = TextEmbedding(tokens=whole[:4, ::2], pooled=whole[10, :5])
    folder = open_folder(tmp_path)
    assert folder.write(PROMPT, part)
    read = folder.read(PROMPT)
    assert read is not None
    assert equal(read, part)


@pytest.mark.parametrize(
    "other", [{"revision": "rev2"}, {"dtype": torch.float16}, {"lengths": (4,)}, {"lengths": (4, 8, 16)}]
)
def test_another_encoding_is_a_miss_and_both_can_be_kept(tmp_path: Path, other: dict[str, Any]) -> None:
    another = replace(ENCODING, **other)
    open_folder(tmp_path).write(PROMPT, make_embedding())
    assert open_folder(tmp_path, another).read(PROMPT) is None
    embedding = make_embedding(2, 4, another.dtype)
    open_folder(tmp_path, another).write(PROMPT, embedding)
    for encoding, expected in ((ENCODING, make_embedding()), (another, embedding)):
        read = open_folder(tmp_path, encoding).read(PROMPT)
        assert read is not None
        assert equal(read, expected)


@pytest.mark.parametrize(
    ("encoding", "prompt", "named"),
    [
        (ENCODING, "another", "prompt"),
        (replace(ENCODING, revision="rev2"), PROMPT, "revision"),
        (replace(ENCODING, lengths=(4,)), PROMPT, "lengths"),
        (replace(ENCODING, dtype=torch.float16), PROMPT, "torch.float16"),
    ],
)
def test_a_file_under_a_strange_name_is_a_miss(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, encoding: Encoding, prompt: str, named: str
) -> None:
    open_folder(tmp_path, encoding).write(prompt, make_embedding(dtype=encoding.dtype))
    only_file(tmp_path).rename(tmp_path / ENCODING.name_file(PROMPT))
    assert open_folder(tmp_path).read(PROMPT) is None
    (line,) = warnings_of(caplog)
    assert named in line
    assert PROMPT not in line, "prompts are never logged"


def write_empty(path: Path) -> None:
    path.write_bytes(b"")


def write_garbage(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n" * 100)


def write_other_tensors(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path, metadata={"format": "pt"})


def write_scalars(path: Path) -> None:
    save_file({"tokens": torch.tensor(1.0), "pooled": torch.tensor(1.0)}, path)


def write_wrong_lengths(path: Path) -> None:
    save_file({"tokens": torch.zeros(5, 6).bfloat16(), "pooled": torch.zeros(5).bfloat16()}, path)


def drop_metadata(path: Path) -> None:
    save_file(load_file(path), path)


def append_a_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def write_zeros_into_the_data(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-16] + bytes(16))


@pytest.mark.parametrize(
    "damage",
    [
        write_empty,
        write_garbage,
        write_other_tensors,
        write_scalars,
        write_wrong_lengths,
        drop_metadata,
        append_a_byte,
        write_zeros_into_the_data,
    ],
)
def test_a_damaged_or_foreign_file_is_a_logged_miss_and_overwritten(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Any
) -> None:
    folder = open_folder(tmp_path)
    folder.write(PROMPT, make_embedding())
    damage(only_file(tmp_path))
    assert folder.read(PROMPT) is None
    assert [only_file(tmp_path).name in line for line in warnings_of(caplog)] == [True]
    assert folder.write(PROMPT, make_embedding())
    read = folder.read(PROMPT)
    assert read is not None
    assert equal(read, make_embedding())


def test_a_huge_file_is_not_even_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = open_folder(tmp_path)
    folder.write(PROMPT, make_embedding())
    os.truncate(only_file(tmp_path), MAX_FILE_BYTES + 1)
    assert folder.read(PROMPT) is None
    assert [f"it has more than {MAX_FILE_BYTES} bytes" in line for line in warnings_of(caplog)] == [True]


def test_no_truncation_and_no_flipped_bit_yields_another_embedding(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    folder.write(PROMPT, make_embedding())
    path = only_file(tmp_path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert folder.read(PROMPT) is None
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        read = folder.read(PROMPT)
        assert read is None or equal(read, make_embedding()), position


def test_a_folder_in_the_files_place_is_a_miss_and_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = open_folder(tmp_path)
    (tmp_path / ENCODING.name_file(PROMPT) / "inner").mkdir(parents=True)
    assert folder.read(PROMPT) is None
    assert not folder.write(PROMPT, make_embedding())
    assert len(warnings_of(caplog)) == 2
    assert [path.name for path in tmp_path.iterdir()] == [ENCODING.name_file(PROMPT)], "nothing half-written is left"


def test_a_folder_that_cannot_be_written_is_logged_once_per_outage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "prompts"
    place.write_text("a file where the folder should be")
    folder = open_folder(place)
    for prompt in ("a", "b", "c"):
        assert folder.read(prompt) is None
        assert not folder.write(prompt, make_embedding())
    assert [str(place) in line for line in warnings_of(caplog)] == [True]
    place.unlink()
    assert folder.write("a", make_embedding())
    only_file(place).unlink()
    place.rmdir()
    place.write_text("again")
    for prompt in ("a", "b"):
        assert not folder.write(prompt, make_embedding())
    assert len(warnings_of(caplog)) == 2


def test_a_folder_that_is_only_read_is_left_as_it_is(tmp_path: Path) -> None:
    open_folder(tmp_path).write(PROMPT, make_embedding())
    os.utime(only_file(tmp_path), (1000, 1000))
    folder = open_folder(tmp_path, max_bytes=None)
    assert folder.read(PROMPT) is not None
    assert not folder.write("another", make_embedding())
    assert only_file(tmp_path).stat().st_mtime == 1000
    assert open_folder(tmp_path / "missing", max_bytes=None).read(PROMPT) is None
    assert not (tmp_path / "missing").exists()


def fill(tmp_path: Path, count: int) -> int:
    """Embeddings "0", "1", … used in this order; the size of one file."""
    folder = open_folder(tmp_path)
    for number in range(count):
        folder.write(str(number), make_embedding(number))
        path = tmp_path / ENCODING.name_file(str(number))
        os.utime(path, (1000 + number, 1000 + number))
    return path.stat().st_size


def kept(tmp_path: Path, count: int) -> list[int]:
    return [number for number in range(count) if (tmp_path / ENCODING.name_file(str(number))).exists()]


def test_the_least_recently_used_files_go_first(tmp_path: Path) -> None:
    size = fill(tmp_path, 4)
    folder = open_folder(tmp_path, max_bytes=3 * size)
    assert folder.read("0") is not None
    assert folder.write("4", make_embedding(4))
    assert kept(tmp_path, 5) == [0, 3, 4]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3 * size


def test_files_of_other_names_are_neither_counted_nor_removed(tmp_path: Path) -> None:
    weights = tmp_path / "model-00001-of-00002.safetensors"
    weights.write_bytes(bytes(1 << 16))
    os.utime(weights, (1, 1))
    size = fill(tmp_path, 2)
    open_folder(tmp_path, max_bytes=2 * size).write("2", make_embedding(2))
    assert kept(tmp_path, 3) == [1, 2]
    assert weights.exists()


def test_one_that_is_larger_than_the_folder_may_be_is_not_written(tmp_path: Path) -> None:
    size = fill(tmp_path, 1)
    assert not open_folder(tmp_path, max_bytes=size - 1).write("1", make_embedding(1))
    assert kept(tmp_path, 2) == [0]


def test_a_written_file_survives_though_the_clock_was_set_back(tmp_path: Path) -> None:
    size = fill(tmp_path, 2)
    future = time.time() + 1e6
    for path in tmp_path.iterdir():
        os.utime(path, (future, future))
    assert open_folder(tmp_path, max_bytes=size).write("2", make_embedding(2))
    assert kept(tmp_path, 3) == [2]


def test_what_a_crash_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    old, fresh = (tmp_path / f".writing-{name}" for name in ("old", "fresh"))
    for path in (old, fresh):
        path.write_bytes(b"half")
    before = time.time() - LEFTOVER_S - 60
    os.utime(old, (before, before))
    open_folder(tmp_path).write(PROMPT, make_embedding())
    assert not old.exists()
    assert fresh.exists()


def test_others_may_read_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    usual = (tmp_path / "usual").stat().st_mode
    (tmp_path / "usual").unlink()
    open_folder(tmp_path).write(PROMPT, make_embedding())
    assert only_file(tmp_path).stat().st_mode == usual


def test_many_threads_read_only_whole_embeddings(tmp_path: Path) -> None:
    size = fill(tmp_path, 1)
    folders = [open_folder(tmp_path, max_bytes=2 * size) for _ in range(2)]  # as two processes would
    wrong: list[str] = []
    hits = []

    def work(seed: int) -> None:
        for turn in range(40):
            number = (seed + turn) % 4
            folder = folders[turn % 2]
            read = folder.read(str(number))
            if read is not None:
                hits.append(number)
                if not equal(read, make_embedding(number)):
                    wrong.append(f"read something else for {number}")
            if not folder.write(str(number), make_embedding(number)):
                wrong.append(f"did not write {number}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert hits
    open_folder(tmp_path, max_bytes=2 * size).write("0", make_embedding(0))
    assert len(kept(tmp_path, 4)) <= 2
    assert len(list(tmp_path.iterdir())) == len(kept(tmp_path, 4))
