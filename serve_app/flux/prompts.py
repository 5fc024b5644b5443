"""Embeddings by prompt, from memory, from disk, or from the encoders: most jobs bring one of a few prompts, and for a
known one the encoders, 10 GB, need not even be loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock

import torch

from serve_app.errors import EngineFailed, EngineUnavailable
from serve_app.flux.prompt_files import Encoding, PromptFolder
from serve_app.flux.prompt_memory import PromptMemory
from serve_app.flux.text import TextEmbedding, TextEncoder
from serve_app.metrics import PROMPTS, Sink

log = logging.getLogger(__name__)

Encode = Callable[[str], Future[TextEmbedding]]


def local_encoder(encoder: TextEncoder) -> Encode:
    """An encoder of this process behind one thread, which ends when the returned function is dropped."""
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="text-encoder")

    def encode(prompt: str) -> Future[TextEmbedding]:
        return executor.submit(encoder.encode, prompt)

    return encode


@dataclass(slots=True)
class _Lookup:
    """One prompt being looked for, and all who wait for it. Each has a future of its own to cancel."""

    waiters: list[Future[TextEmbedding]] = field(default_factory=list)
    encoding: Future[TextEmbedding] | None = None


class Prompts:
    """See `Encoding` for `revision`, `dtype` and `lengths`.

    `encode` is asked for what is neither in memory nor on disk, from a thread of this object, and must return at once;
    the exception its future ends with is what all who wait get, and is not remembered. `memory_bytes` and
    `folder_bytes` bound what is kept, the least recently used going first; `folder` None keeps nothing on disk. The
    `shipped` folders are read before `folder`, in order, and never written.

    All methods may be called from any thread.
    """

    def __init__(
        self,
        revision: str,
        encode: Encode,
        *,
        dtype: torch.dtype,
        lengths: tuple[int, ...],
        memory_bytes: int,
        folder: Path | None,
        folder_bytes: int,
        shipped: Sequence[Path] = (),
        sink: Sink,
    ) -> None:
        self._encoding = Encoding(revision, dtype, lengths)
        self._encode = encode
        self._folder = None if folder is None else PromptFolder(folder, self._encoding, max_bytes=folder_bytes)
        own = [] if self._folder is None else [self._folder]
        self._readable = [*(PromptFolder(path, self._encoding) for path in shipped), *own]
        self._sink = sink
        self._lock = Lock()
        self._memory = PromptMemory(memory_bytes)
        self._lookups: dict[str, _Lookup] = {}
        self._closed = False
        # One thread, so that what was written before a prompt is read is found.
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prompts")

    def request(self, prompt: str) -> Future[TextEmbedding]:
        """Never waits for disk or encoders. The embedding is shared: it must not be changed.

        The future is done already when the embedding is in memory. Cancelling it does not disturb others who want the
        same prompt. Its callbacks run in a thread of this object or of the encoder and must be quick. It may end in
        EngineUnavailable, when the prompts are closed or the encoding was given up, in EngineFailed, when what was
        encoded has not the promised dtype or length, or in what `encode` raises.
        """
        waiter: Future[TextEmbedding] = Future()
        with self._lock:
            embedding = self._memory.get(prompt)
            if embedding is None and not self._closed:
                if prompt not in self._lookups:
                    self._disk.submit(self._look_up, prompt)
                    self._lookups[prompt] = _Lookup()
                self._lookups[prompt].waiters.append(waiter)
                return waiter
        if embedding is None:
            waiter.set_exception(_closed())
        else:
            self._sink.record(PROMPTS, source="memory")
            waiter.set_result(embedding)
        return waiter

    def close(self) -> None:
        """End those who wait in EngineUnavailable, and return when the disk is done. An encoding that has begun goes on
        and is dropped."""
        with self._lock:
            self._closed = True
            lookups = list(self._lookups.values())
            self._lookups.clear()
        for lookup in lookups:
            if lookup.encoding is not None:
                lookup.encoding.cancel()
            _refuse(lookup.waiters, _closed())
        self._disk.shutdown()

    def _look_up(self, prompt: str) -> None:
        try:
            if (embedding := self._read(prompt)) is not None:
                self._finish(prompt, embedding, "disk")
                return
            with self._lock:
                if self._closed:
                    return
            encoding = self._encode(prompt)
        except Exception as error:  # whoever waits must learn it
            self._fail(prompt, error)
            return
        with self._lock:
            lookup = self._lookups.get(prompt)
            if lookup is not None:
                lookup.encoding = encoding
        if lookup is None:  # closed meanwhile
            encoding.cancel()
        encoding.add_done_callback(partial(self._take, prompt))

    def _read(self, prompt: str) -> TextEmbedding | None:
        found = (folder.read(prompt) for folder in self._readable)
        return next((embedding for embedding in found if embedding is not None), None)

    def _take(self, prompt: str, encoding: Future[TextEmbedding]) -> None:
        if encoding.cancelled():
            self._fail(prompt, EngineUnavailable("the encoding of the prompt was given up"))
        elif error := encoding.exception():
            self._fail(prompt, error)
        elif not self._encoding.fits(embedding := encoding.result()):
            made = f"{tuple(embedding.tokens.shape)} tokens in {embedding.tokens.dtype}"
            self._fail(prompt, EngineFailed(f"the text encoders gave {made}, which is not {self._encoding}"))
        else:
            self._finish(prompt, embedding, "encoded")

    def _finish(self, prompt: str, embedding: TextEmbedding, source: str) -> None:
        with self._lock:
            # Before the lookup is over: one that begins then finds the file, should memory be too small.
            if source == "encoded" and not self._closed:
                self._disk.submit(self._keep, prompt, embedding)
            self._memory.put(prompt, embedding)
            waiters = self._lookups.pop(prompt, _Lookup()).waiters
        self._sink.record(PROMPTS, len(waiters), source=source)
        for waiter in waiters:
            if waiter.set_running_or_notify_cancel():
                waiter.set_result(embedding)

    def _fail(self, prompt: str, error: BaseException) -> None:
        with self._lock:
            waiters = self._lookups.pop(prompt, _Lookup()).waiters
        _refuse(waiters, error)

    def _keep(self, prompt: str, embedding: TextEmbedding) -> None:
        try:
            if self._folder is not None:
                self._folder.write(prompt, embedding)
        except Exception:  # nobody waits for this; the request has its embedding
            log.exception("an embedding was not kept on disk")


def _refuse(waiters: Sequence[Future[TextEmbedding]], error: BaseException) -> None:
    for waiter in waiters:
        if waiter.set_running_or_notify_cancel():
            waiter.set_exception(error)


def _closed() -> EngineUnavailable:
    return EngineUnavailable("the prompts are being closed; send the request again")
