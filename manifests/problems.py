"""What is wrong with a manifest, and where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from manifests.builds import Document, show


class Problem(NamedTuple):
    document: str
    """Kind/name."""
    path: str
    """Dotted, from the document's root."""
    sentence: str
    rule: str = "schema"

    def __str__(self) -> str:
        return f"{self.document}: {self.path or '.'}: {self.sentence} [{self.rule}]"


Problems = Iterator[Problem]


def report(document: Document, path: str, sentence: str) -> Problem:
    return Problem(show(document), path, sentence)
