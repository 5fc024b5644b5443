"""Embeddings in memory."""

from __future__ import annotations

from collections import OrderedDict

from serve_app.flux.text import TextEmbedding


class PromptMemory:
    """The most recently used embeddings, of at most so many bytes. Not for concurrent calls."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._embeddings: OrderedDict[str, TextEmbedding] = OrderedDict()

    def get(self, prompt: str) -> TextEmbedding | None:
        embedding = self._embeddings.get(prompt)
        if embedding is not None:
            self._embeddings.move_to_end(prompt)
        return embedding

    def put(self, prompt: str, embedding: TextEmbedding) -> None:
        size = _size(embedding)
        if size > self._max_bytes or prompt in self._embeddings:
            return
        self._embeddings[prompt] = embedding
        self._bytes += size
        while self._bytes > self._max_bytes:
            _, oldest = self._embeddings.popitem(last=False)
            self._bytes -= _size(oldest)


def _size(embedding: TextEmbedding) -> int:
    return embedding.tokens.nbytes + embedding.pooled.nbytes
