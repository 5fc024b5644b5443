"""A Terraform configuration as it is written: blocks with labels, attributes and inner blocks. Nothing is evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import hcl2
from lark import Token, Tree
from lark.exceptions import LarkError

INFRA = Path(__file__).resolve().parent.parent / "infra"

Expression = Tree[Token]
"""python-hcl2's syntax tree of one expression; see `expressions`."""


class NotTerraform(Exception):
    """A file that cannot be parsed; the message names it and the place."""


@dataclass(frozen=True, slots=True)
class Block:
    """`kind` is the word it begins with, `labels` what stands behind it; `file` is a name without a folder."""

    kind: str
    labels: tuple[str, ...]
    attributes: Mapping[str, Expression]
    inner: tuple[Block, ...]
    file: str
    line: int

    @property
    def address(self) -> str:
        """As Terraform names it, such as google_storage_bucket.weights or var.region."""
        prefix = {"resource": (), "variable": ("var",), "data": ("data",)}.get(self.kind, (self.kind,))
        return ".".join((*prefix, *self.labels))

    def expressions(self) -> Iterator[Expression]:
        """Those of the block and of all blocks in it."""
        yield from self.attributes.values()
        for block in self.inner:
            yield from block.expressions()


@dataclass(frozen=True, slots=True)
class Configuration:
    top: tuple[Block, ...]

    def blocks(self, kind: str) -> list[Block]:
        return [block for block in self.top if block.kind == kind]

    def find(self, address: str) -> Block:
        """Raises KeyError."""
        for block in self.top:
            if block.address == address:
                return block
        raise KeyError(address)

    def locals(self) -> dict[str, Expression]:
        return {name: value for block in self.blocks("locals") for name, value in block.attributes.items()}


def read_configuration(folder: Path) -> Configuration:
    """Every *.tf file of the folder. Raises NotTerraform."""
    return Configuration(tuple(block for path in sorted(folder.glob("*.tf")) for block in read_file(path)))


def read_file(path: Path) -> tuple[Block, ...]:
    """Raises NotTerraform."""
    return _read_text(path.name, path.read_text())


@lru_cache(maxsize=64)  # a file takes up to half a second, and tests read most of them again and again
def _read_text(name: str, text: str) -> tuple[Block, ...]:
    try:
        tree = hcl2.parses_to_tree(text)
    except LarkError as error:
        line = getattr(error, "line", None)
        raise NotTerraform(
            f"{name}{f':{line}' if line else ''}: this is no HCL: {str(error).splitlines()[0]}"
        ) from None
    (body,) = tree.children
    _, blocks = _read_body(body, name)
    return tuple(blocks)


def _read_body(body: Expression, file: str) -> tuple[dict[str, Expression], list[Block]]:
    attributes: dict[str, Expression] = {}
    blocks: list[Block] = []
    for child in body.children:
        if not isinstance(child, Tree):
            continue
        if child.data == "attribute":
            name, expression = (part for part in child.children if isinstance(part, Tree))
            attributes[read_word(name)] = expression
        elif child.data == "block":
            blocks.append(_read_block(child, file))
    return attributes, blocks


def _read_block(tree: Expression, file: str) -> Block:
    *words, body = (part for part in tree.children if isinstance(part, Tree) and part.data != "new_line_or_comment")
    kind, *labels = (read_word(word) for word in words)
    attributes, inner = _read_body(body, file)
    return Block(kind, tuple(labels), attributes, tuple(inner), file, tree.meta.line)


def read_word(tree: Expression) -> str:
    """A name as it is, a string without its quotes."""
    return "".join(str(token) for token in tree.scan_values(lambda _: True)).strip('"')
