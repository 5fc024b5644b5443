"""Embeddings on disk: one safetensors file per prompt, which says in its metadata what it was made from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from serve_app.flux.text import TextEmbedding

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 64 << 20
"""A larger file is none of ours and not read: 512 tokens of T5-XXL are 8 MB in float32."""
LEFTOVER_S = 3600
"""Age of an unfinished file, in seconds, past which it belongs to nobody."""
_OURS = re.compile(r"[0-9a-f]{64}\.safetensors")
_HEADER_BYTES = 8  # a safetensors file begins with its header's length, little-endian


@dataclass(frozen=True, slots=True)
class Encoding:
    """Everything beside the prompt that an embedding depends on: the checkpoint's `revision`, the encoders' `dtype` and
    the text `lengths` prompts are padded to, ascending. Whoever quantizes the encoders says so in `revision`."""

    revision: str
    dtype: torch.dtype
    lengths: tuple[int, ...]

    def describe(self, prompt: str) -> dict[str, str]:
        return {
            "revision": self.revision,
            "dtype": str(self.dtype).removeprefix("torch."),
            "lengths": ",".join(str(length) for length in self.lengths),
            "prompt": prompt,
        }

    def name_file(self, prompt: str) -> str:
        return hashlib.sha256(json.dumps(self.describe(prompt)).encode()).hexdigest() + ".safetensors"

    def fits(self, embedding: TextEmbedding) -> bool:
        """Whether an embedding can have been made this way."""
        tokens, pooled = embedding.tokens, embedding.pooled
        shaped = tokens.ndim == 2 and pooled.ndim == 1 and tokens.shape[0] in self.lengths
        return shaped and tokens.dtype == pooled.dtype == self.dtype


class PromptFolder:
    """With `max_bytes` None the folder is only read; otherwise the least recently used of our files are removed until
    those left have at most so many bytes. Files of other names are left alone.

    Nothing here raises for what is or is not on disk. Safe between threads and processes: a file appears whole, by
    rename, and may be removed at any time.
    """

    def __init__(self, folder: Path, encoding: Encoding, *, max_bytes: int | None = None) -> None:
        self._folder = folder
        self._encoding = encoding
        self._max_bytes = max_bytes
        self._failing = False  # so that a folder that cannot be written is logged once, not at every prompt

    def read(self, prompt: str) -> TextEmbedding | None:
        """None when there is no file, or one that is damaged or holds something else."""
        path = self._folder / self._encoding.name_file(prompt)
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ValueError(f"it has more than {MAX_FILE_BYTES} bytes")
            # Not mapped: a mapped file that is cut short by somebody else ends the process.
            embedding = self._parse(path.read_bytes(), prompt)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # the disk's own, or whatever a foreign file makes its parser raise
            log.warning("the embedding %s is not usable: %s: %s", path, type(error).__name__, error)
            return None
        if self._max_bytes is not None:
            with contextlib.suppress(OSError):  # read well, though it cannot be marked as used
                os.utime(path)
        return embedding

    def write(self, prompt: str, embedding: TextEmbedding) -> bool:
        """Whether the embedding is on disk now: not when it alone is larger than the folder may be, nor when the folder
        cannot be written, which is logged."""
        if self._max_bytes is None:
            return False
        tensors = {"tokens": embedding.tokens.contiguous(), "pooled": embedding.pooled.contiguous()}
        data = save(tensors, metadata=self._describe(prompt, embedding))
        if len(data) > self._max_bytes:
            return False
        path = self._folder / self._encoding.name_file(prompt)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._put(path, data)
            self._remove_oldest(keep=path)
        except OSError as error:
            if not self._failing:
                log.warning("embeddings are not kept on disk, %s cannot be written: %s", self._folder, error)
            self._failing = True
            return False
        self._failing = False
        return True

    def _parse(self, data: bytes, prompt: str) -> TextEmbedding:
        tensors = load(data)
        embedding = TextEmbedding(tokens=tensors["tokens"], pooled=tensors["pooled"])
        if not self._encoding.fits(embedding):
            raise ValueError(f"its tokens are {tuple(embedding.tokens.shape)} of {embedding.tokens.dtype}")
        expected, found = self._describe(prompt, embedding), _read_metadata(data)
        if found != expected:
            wrong = sorted(key for key in expected | found if expected.get(key) != found.get(key))
            raise ValueError(f"it has another {', '.join(wrong)} than expected")
        return embedding

    def _describe(self, prompt: str, embedding: TextEmbedding) -> dict[str, str]:
        return {**self._encoding.describe(prompt), "sha256": _digest(embedding)}

    def _put(self, path: Path, data: bytes) -> None:
        partial = self._folder / f".writing-{uuid.uuid4().hex}"
        try:
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # a power cut after the rename must not leave an empty file under the name
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def _remove_oldest(self, keep: Path) -> None:
        files: list[tuple[int, int, Path]] = []
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process removed it first
                status = path.stat()
                if path.name.startswith(".writing-") and status.st_mtime < time.time() - LEFTOVER_S:
                    path.unlink()
                elif _OURS.fullmatch(path.name):
                    files.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if self._max_bytes is None or total <= self._max_bytes:
                return
            if path != keep:
                path.unlink(missing_ok=True)
                total -= size


def _read_metadata(data: bytes) -> dict[str, Any]:
    size = int.from_bytes(data[:_HEADER_BYTES], "little")
    header = json.loads(data[_HEADER_BYTES : _HEADER_BYTES + size])
    metadata: dict[str, Any] = header["__metadata__"]
    return metadata


def _digest(embedding: TextEmbedding) -> str:
    """Of the numbers: a file in which only they are damaged still has the right form."""
    digest = hashlib.sha256()
    for tensor in (embedding.tokens, embedding.pooled):
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
