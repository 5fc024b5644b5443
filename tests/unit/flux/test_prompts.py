"""Where embeddings come from, with the real tiny encoders, real files and real threads."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from bench.tiny_flux import write_checkpoint
from serve_app.errors import EngineFailed, EngineRejected, EngineUnavailable
from serve_app.flux.prompt_files import Encoding, PromptFolder
from serve_app.flux.prompts import Encode, Prompts, local_encoder
from serve_app.flux.text import TextEmbedding, TextEncoder
from serve_app.metrics import PlainSink

LONG_S = 30.0  # a real time-out for what should come at once
LENGTHS = (128, 256)
TOO_LONG = "a" * 300
BYTES = 128 * 32 * 2 + 32 * 2  # of one tiny embedding in memory: 128 tokens of 32 and 32 pooled, in bfloat16


def load_encoder(checkpoint: Path, dtype: torch.dtype) -> TextEncoder:
    return TextEncoder(
        CLIPTokenizer.from_pretrained(checkpoint / "tokenizer"),
        CLIPTextModel.from_pretrained(checkpoint / "text_encoder", dtype=dtype),
        T5Tokenizer.from_pretrained(checkpoint / "tokenizer_2"),
        T5EncoderModel.from_pretrained(checkpoint / "text_encoder_2", dtype=dtype),
        LENGTHS,
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> TextEncoder:
    return load_encoder(checkpoint, torch.bfloat16)


class Door:
    """The real encoders behind a door that the test opens; what was asked for is listed."""

    def __init__(self, encoder: TextEncoder, *, is_open: bool = True) -> None:
        self.asked: list[str] = []
        self.opened = threading.Event()
        if is_open:
            self.opened.set()
        self._encoder = encoder
        self._executor = ThreadPoolExecutor(1)

    def __call__(self, prompt: str) -> Future[TextEmbedding]:
        self.asked.append(prompt)
        return self._executor.submit(self._encode, prompt)

    def _encode(self, prompt: str) -> TextEmbedding:
        assert self.opened.wait(LONG_S)
        return self._encoder.encode(prompt)


def never(prompt: str) -> Future[TextEmbedding]:
    raise AssertionError(f"the encoders were asked for {prompt!r}")


Open = Callable[..., Prompts]


@pytest.fixture
def sink() -> PlainSink:
    return PlainSink()


@pytest.fixture
def open_prompts(sink: PlainSink) -> Iterator[Open]:
    opened: list[Prompts] = []

    def open_one(encode: Encode, revision: str = "rev1", **given: Any) -> Prompts:
        defaults: dict[str, Any] = {
            "dtype": torch.bfloat16,
            "lengths": LENGTHS,
            "memory_bytes": 100 * BYTES,
            "folder": None,
            "folder_bytes": 1 << 24,
        }
        opened.append(Prompts(revision, encode, **{**defaults, **given}, sink=sink))
        return opened[-1]

    yield open_one
    for prompts in opened:
        prompts.close()


def count(sink: PlainSink, source: str) -> float:
    return sink.value("pawfect_prompts_total", source=source) or 0.0


def counts(sink: PlainSink) -> tuple[float, float, float]:
    return count(sink, "memory"), count(sink, "disk"), count(sink, "encoded")


def equal(a: TextEmbedding, b: TextEmbedding) -> bool:
    pairs = ((a.tokens, b.tokens), (a.pooled, b.pooled))
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


def wait_until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(int(LONG_S * 1000)):
        if condition():
            return
        waiting.wait(0.001)
    raise AssertionError("it did not come to that")


def mark(seed: int) -> TextEmbedding:
    """An embedding that no prompt has."""
    generator = torch.Generator().manual_seed(seed)
    tokens, pooled = (torch.randn(shape, generator=generator).bfloat16() for shape in ((128, 32), (32,)))
    return TextEmbedding(tokens=tokens, pooled=pooled)


def test_a_prompt_is_encoded_once_and_then_comes_from_memory_at_once(
    encoder: TextEncoder, open_prompts: Open, sink: PlainSink
) -> None:
    door = Door(encoder)
    prompts = open_prompts(door)
    first = prompts.request("dog").result(LONG_S)
    assert equal(first, encoder.encode("dog"))
    again = prompts.request("dog")
    assert again.done()
    assert again.result() is first
    assert not equal(prompts.request("cat").result(LONG_S), first)
    assert door.asked == ["dog", "cat"]
    assert counts(sink) == (1, 0, 2)


def test_requests_for_a_prompt_being_encoded_share_the_encoding(
    encoder: TextEncoder, open_prompts: Open, sink: PlainSink
) -> None:
    door = Door(encoder, is_open=False)
    prompts = open_prompts(door)
    together = threading.Barrier(16)

    def ask(number: int) -> Future[TextEmbedding]:
        together.wait(LONG_S)
        return prompts.request("dog" if number % 2 else "cat")

    with ThreadPoolExecutor(16) as pool:
        futures = list(pool.map(ask, range(16)))
    assert not any(future.done() for future in futures)
    door.opened.set()
    found = [future.result(LONG_S) for future in futures]
    assert sorted(door.asked) == ["cat", "dog"]
    for number, embedding in enumerate(found):
        assert embedding is found[number % 2]
    assert equal(found[1], encoder.encode("dog"))
    assert counts(sink) == (0, 0, 16)


def test_many_threads_and_prompts_with_little_memory(encoder: TextEncoder, open_prompts: Open, tmp_path: Path) -> None:
    prompts = open_prompts(Door(encoder), memory_bytes=2 * BYTES, folder=tmp_path)
    texts = ["dog", "cat", "a lawn", "a leash", ""]
    expected = [encoder.encode(text) for text in texts]

    def ask(number: int) -> bool:
        found = prompts.request(texts[number % 5]).result(LONG_S)
        return equal(found, expected[number % 5])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(200)))


def test_a_failure_reaches_all_who_wait_and_is_not_remembered(
    encoder: TextEncoder, open_prompts: Open, sink: PlainSink, tmp_path: Path
) -> None:
    door = Door(encoder, is_open=False)
    prompts = open_prompts(door, folder=tmp_path)
    futures = [prompts.request(TOO_LONG) for _ in range(3)]
    door.opened.set()
    for future in futures:
        with pytest.raises(EngineRejected, match="at most 256 are accepted"):
            future.result(LONG_S)
    with pytest.raises(EngineRejected):
        prompts.request(TOO_LONG).result(LONG_S)
    assert door.asked == [TOO_LONG, TOO_LONG]
    prompts.close()
    assert list(tmp_path.iterdir()) == []
    assert counts(sink) == (0, 0, 0)


def test_after_a_failure_the_next_request_may_succeed(encoder: TextEncoder, open_prompts: Open) -> None:
    door = Door(encoder)
    failures: list[Exception] = [EngineUnavailable("no encoder yet"), EngineFailed("it broke")]

    def encode(prompt: str) -> Future[TextEmbedding]:
        if len(failures) == 2:
            raise failures.pop()  # where it is asked
        future = door(prompt)
        return future if not failures else ThreadPoolExecutor(1).submit(fail)

    def fail() -> TextEmbedding:
        raise failures.pop()

    prompts = open_prompts(encode)
    with pytest.raises(EngineFailed, match="it broke"):
        prompts.request("dog").result(LONG_S)
    with pytest.raises(EngineUnavailable, match="no encoder yet"):
        prompts.request("dog").result(LONG_S)
    assert equal(prompts.request("dog").result(LONG_S), encoder.encode("dog"))


def test_one_who_gives_up_does_not_disturb_the_others(encoder: TextEncoder, open_prompts: Open) -> None:
    door = Door(encoder, is_open=False)
    prompts = open_prompts(door)
    first, second, third = (prompts.request("dog") for _ in range(3))
    alone = prompts.request("cat")
    assert first.cancel()
    assert third.cancel()
    assert alone.cancel()
    door.opened.set()
    assert equal(second.result(LONG_S), encoder.encode("dog"))
    with pytest.raises(CancelledError):
        first.result()
    prompts.request("cat").result(LONG_S)
    assert door.asked == ["dog", "cat"], "what was begun for one who gave up is kept for the next"


def test_an_encoding_that_is_given_up_fails_those_who_wait(open_prompts: Open) -> None:
    given: Future[TextEmbedding] = Future()
    waiter = open_prompts(lambda prompt: given).request("dog")
    assert given.cancel()
    given.set_running_or_notify_cancel()
    with pytest.raises(EngineUnavailable, match="given up"):
        waiter.result(LONG_S)


@pytest.mark.parametrize("given", [{"dtype": torch.float32}, {"lengths": (256, 512)}])
def test_an_embedding_that_is_not_as_promised_is_refused(
    encoder: TextEncoder, open_prompts: Open, tmp_path: Path, given: dict[str, Any]
) -> None:
    prompts = open_prompts(Door(encoder), folder=tmp_path, **given)
    with pytest.raises(EngineFailed, match=r"gave \(128, 32\) tokens in torch.bfloat16"):
        prompts.request("dog").result(LONG_S)
    prompts.close()
    assert list(tmp_path.iterdir()) == []


def test_memory_holds_so_many_bytes_of_the_most_recently_used(
    encoder: TextEncoder, open_prompts: Open, sink: PlainSink
) -> None:
    door = Door(encoder)
    prompts = open_prompts(door, memory_bytes=2 * BYTES)
    for prompt in ("a", "b", "a", "c"):
        prompts.request(prompt).result(LONG_S)
    assert counts(sink) == (1, 0, 3)
    assert prompts.request("a").done()
    assert prompts.request("c").done()
    assert equal(prompts.request("b").result(LONG_S), encoder.encode("b"))
    assert door.asked == ["a", "b", "c", "b"]


def test_a_longer_one_takes_the_place_of_two(encoder: TextEncoder, open_prompts: Open) -> None:
    door = Door(encoder)
    prompts = open_prompts(door, memory_bytes=3 * BYTES)
    long = "a" * 200  # 256 tokens
    for prompt in ("a", "b", "c", long):
        prompts.request(prompt).result(LONG_S)
    assert prompts.request(long).done()
    assert prompts.request("c").done()
    prompts.request("b").result(LONG_S)
    assert door.asked == ["a", "b", "c", long, "b"]


def test_what_is_larger_than_memory_comes_from_disk_and_displaces_nothing(
    encoder: TextEncoder, open_prompts: Open, sink: PlainSink, tmp_path: Path
) -> None:
    door = Door(encoder)
    prompts = open_prompts(door, memory_bytes=BYTES, folder=tmp_path)
    long = "a" * 200
    prompts.request("dog").result(LONG_S)
    for _ in range(3):
        assert equal(prompts.request(long).result(LONG_S), encoder.encode(long))
    assert prompts.request("dog").done()
    assert door.asked == ["dog", long]
    assert counts(sink) == (1, 2, 2)


def test_known_prompts_need_no_encoder_after_a_restart(
    encoder: TextEncoder, open_prompts: Open, sink: PlainSink, tmp_path: Path
) -> None:
    folder = tmp_path / "deep" / "prompts"
    before = open_prompts(Door(encoder), folder=folder)
    texts = ("dog", "", "Ein Hund – 犬", "a" * 200)
    for text in texts:
        before.request(text)
    for text in texts:
        before.request(text).result(LONG_S)
    before.close()
    assert len(list(folder.iterdir())) == len(texts)
    after = open_prompts(never, folder=folder)
    for text in texts:
        embedding = after.request(text).result(LONG_S)
        assert equal(embedding, encoder.encode(text))
        assert after.request(text).result() is embedding
    assert count(sink, "disk") == len(texts)


def test_another_revision_or_dtype_is_encoded_anew(
    checkpoint: Path, encoder: TextEncoder, open_prompts: Open, tmp_path: Path
) -> None:
    first = open_prompts(Door(encoder), folder=tmp_path)
    first.request("dog").result(LONG_S)
    first.close()
    exact = load_encoder(checkpoint, torch.float32)
    for door, given in ((Door(encoder), {"revision": "rev2"}), (Door(exact), {"dtype": torch.float32})):
        prompts = open_prompts(door, folder=tmp_path, **given)
        embedding = prompts.request("dog").result(LONG_S)
        assert embedding.tokens.dtype == given.get("dtype", torch.bfloat16)
        assert door.asked == ["dog"]
        prompts.close()
    assert len(list(tmp_path.iterdir())) == 3


def test_a_damaged_file_is_encoded_anew_and_mended(encoder: TextEncoder, open_prompts: Open, tmp_path: Path) -> None:
    first = open_prompts(Door(encoder), folder=tmp_path)
    first.request("dog").result(LONG_S)
    first.close()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:4000])
    door = Door(encoder)
    second = open_prompts(door, folder=tmp_path)
    assert equal(second.request("dog").result(LONG_S), encoder.encode("dog"))
    assert door.asked == ["dog"]
    second.close()
    third = open_prompts(never, folder=tmp_path)
    assert equal(third.request("dog").result(LONG_S), encoder.encode("dog"))


def test_the_folder_is_bounded(encoder: TextEncoder, open_prompts: Open, tmp_path: Path) -> None:
    prompts = open_prompts(Door(encoder), folder=tmp_path, folder_bytes=3 * (BYTES + 1024), memory_bytes=0)
    for number in range(8):
        prompts.request("a" * number).result(LONG_S)
    prompts.close()
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 3
    assert sum(sizes) <= 3 * (BYTES + 1024)


def test_what_was_shipped_is_taken_first_and_left_alone(
    encoder: TextEncoder, open_prompts: Open, sink: PlainSink, tmp_path: Path
) -> None:
    encoding = Encoding("rev1", torch.bfloat16, LENGTHS)
    missing, first, second, own = (tmp_path / name for name in ("missing", "first", "second", "own"))
    kept = {first: {"a": 1}, second: {"a": 2, "b": 2}, own: {"a": 3, "b": 3, "c": 3}}
    for folder, content in kept.items():
        for prompt, seed in content.items():
            PromptFolder(folder, encoding, max_bytes=1 << 20).write(prompt, mark(seed))
    prompts = open_prompts(never, folder=own, shipped=(missing, first, second))
    for prompt, seed in (("a", 1), ("b", 2), ("c", 3)):
        assert equal(prompts.request(prompt).result(LONG_S), mark(seed))
    assert count(sink, "disk") == 3
    prompts.close()

    for path in first.iterdir():
        path.write_bytes(b"damaged")
    again = open_prompts(never, folder=own, shipped=(first, own))
    assert equal(again.request("a").result(LONG_S), mark(3))
    assert [path.read_bytes() for path in first.iterdir()] == [b"damaged"]


def test_without_a_folder_of_its_own_the_shipped_ones_are_read(
    encoder: TextEncoder, open_prompts: Open, tmp_path: Path
) -> None:
    PromptFolder(tmp_path, Encoding("rev1", torch.bfloat16, LENGTHS), max_bytes=1 << 20).write("a", mark(1))
    door = Door(encoder)
    prompts = open_prompts(door, shipped=(tmp_path,))
    assert equal(prompts.request("a").result(LONG_S), mark(1))
    prompts.request("b").result(LONG_S)
    prompts.close()
    assert door.asked == ["b"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_disk_that_cannot_be_written_fails_nobody(
    encoder: TextEncoder, open_prompts: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "prompts"
    place.write_text("a file where the folder should be")
    prompts = open_prompts(Door(encoder), folder=place)
    for text in ("dog", "cat"):
        assert equal(prompts.request(text).result(LONG_S), encoder.encode(text))
        assert prompts.request(text).done()
    prompts.close()
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


def test_a_request_waits_for_nothing_though_disk_and_encoders_are_held_up(
    encoder: TextEncoder, open_prompts: Open, tmp_path: Path
) -> None:
    held, release = threading.Event(), threading.Event()
    door = Door(encoder)

    def encode(prompt: str) -> Future[TextEmbedding]:
        if prompt == "slow":  # holds up the thread that also reads the disk
            held.set()
            assert release.wait(LONG_S)
        return door(prompt)

    prompts = open_prompts(encode, folder=tmp_path)
    prompts.request("known").result(LONG_S)
    slow = prompts.request("slow")
    assert held.wait(LONG_S)
    assert prompts.request("known").done()
    new, slow_too = prompts.request("new"), prompts.request("slow")
    assert [future.done() for future in (slow, new, slow_too)] == [False] * 3
    release.set()
    for future in (slow, new, slow_too):
        future.result(LONG_S)
    assert door.asked == ["known", "slow", "new"]


def test_close_ends_those_who_wait_and_keeps_what_was_encoded(
    encoder: TextEncoder, open_prompts: Open, tmp_path: Path
) -> None:
    door = Door(encoder)
    prompts = open_prompts(door, folder=tmp_path)
    prompts.request("known").result(LONG_S)
    door.opened.clear()
    begun, queued = prompts.request("begun"), prompts.request("queued")
    wait_until(lambda: door.asked == ["known", "begun", "queued"])
    prompts.close()
    late = prompts.request("late")
    for future in (begun, queued, late):
        with pytest.raises(EngineUnavailable, match="closed"):
            future.result(0)
    assert prompts.request("known").done()
    assert len(list(tmp_path.iterdir())) == 1
    door.opened.set()
    prompts.close()
    assert door.asked == ["known", "begun", "queued"]


def test_an_encoding_not_begun_is_taken_back_on_close(encoder: TextEncoder, open_prompts: Open) -> None:
    door = Door(encoder, is_open=False)
    given: list[Future[TextEmbedding]] = []

    def encode(prompt: str) -> Future[TextEmbedding]:
        given.append(door(prompt))
        return given[-1]

    prompts = open_prompts(encode)
    for prompt in ("begun", "queued"):
        prompts.request(prompt)
    wait_until(lambda: len(given) == 2 and given[0].running())
    prompts.close()
    wait_until(given[1].cancelled)
    door.opened.set()
    assert equal(given[0].result(LONG_S), encoder.encode("begun"))


def test_the_local_encoder_works_in_one_thread_that_ends_with_it(encoder: TextEncoder) -> None:
    def find_threads() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith("text-encoder")]

    encode = local_encoder(encoder)
    futures = [encode(prompt) for prompt in ("dog", "cat", TOO_LONG)]
    assert equal(futures[0].result(LONG_S), encoder.encode("dog"))
    assert equal(futures[1].result(LONG_S), encoder.encode("cat"))
    with pytest.raises(EngineRejected):
        futures[2].result(LONG_S)
    (thread,) = find_threads()
    del encode, futures
    gc.collect()
    thread.join(LONG_S)
    assert find_threads() == []


def test_it_works_around_the_local_encoder(encoder: TextEncoder, open_prompts: Open, sink: PlainSink) -> None:
    prompts = open_prompts(local_encoder(encoder))
    assert equal(prompts.request("dog").result(LONG_S), encoder.encode("dog"))
    with pytest.raises(EngineRejected):
        prompts.request(TOO_LONG).result(LONG_S)
    assert counts(sink) == (0, 0, 1)
