"""What an expression refers to, and what is written in it as it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lark import Token, Tree

from infra_check.configuration import Expression, read_word

SPLAT, INDEX = "*", "[]"
"""Steps of a traversal that are no names."""
_HEREDOCS = ("heredoc_template", "heredoc_template_trim")
_BLANK = "new_line_or_comment"


@dataclass(frozen=True, slots=True)
class Traversal:
    """Such as google_storage_bucket.photos[0].name: google_storage_bucket, photos, [], name."""

    steps: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(step for step in self.steps if step not in (SPLAT, INDEX))


def find_traversals(expression: Expression) -> Iterator[Traversal]:
    """All of them but those that begin with a name that the expression itself introduces (for x in …)."""
    introduced = {
        read_word(word)
        for intro in expression.find_data("for_intro")
        for word in intro.children
        if isinstance(word, Tree) and word.data == "identifier"
    }
    for steps in _walk(expression):
        if steps[0] not in introduced:
            yield Traversal(steps)


def find_literals(expression: Expression) -> Iterator[str]:
    """Every string as it is written, with what is interpolated as ${…}."""
    for part in expression.find_data("string"):
        yield "".join(_write(piece) for piece in part.find_data("string_part"))


def read_literal(expression: Expression) -> str | None:
    """The value of an expression that is one word, number or plain string; None for all others."""
    inner = _bare(expression)
    if inner.data == "string" and not any(inner.find_data("interpolation")):
        return read_word(inner)
    if inner.data in ("literal_value", "int_lit", "float_lit", "identifier"):
        return read_word(inner)
    return None


def has_heredoc(expression: Expression) -> bool:
    """Whether there is text in it that the parser leaves unread, references and all."""
    return any(tree.data in _HEREDOCS for tree in expression.iter_subtrees()) or any(
        isinstance(token, Token) and token.startswith("<<") for token in expression.scan_values(lambda _: True)
    )


def _write(piece: Expression) -> str:
    interpolated = any(isinstance(child, Tree) and child.data == "interpolation" for child in piece.children)
    return "${…}" if interpolated else "".join(str(child) for child in piece.children)


def _walk(tree: Expression) -> Iterator[tuple[str, ...]]:
    if tree.data == "object_elem_key" and _bare(_trees(tree)[0]).data == "identifier" and "(" not in _tokens(tree):
        return  # a key, which is a word
    if tree.data == "expr_term" and (steps := _read_steps(tree)) is not None:
        yield steps
        for index in (*tree.find_data("sqb_index"), *tree.find_data("braces_index")):
            for inner in _trees(index):
                yield from _walk(inner)
        return
    for child in _trees(tree):
        yield from _walk(child)


def _read_steps(tree: Expression) -> tuple[str, ...] | None:
    """None for what is no chain of names, such as a call or a sum."""
    if tree.data == "identifier":
        return (read_word(tree),)
    children = _trees(tree)
    if tree.data == "expr_term":
        return _read_steps(children[0]) if len(children) == 1 else None
    if not str(tree.data).endswith("_expr_term"):
        return None
    base = _read_steps(children[0])
    return None if base is None else (*base, *(step for part in children[1:] for step in _read_step(part)))


def _read_step(part: Expression) -> Iterator[str]:
    if part.data == "get_attr":
        yield read_word(_trees(part)[-1])
    elif "splat" in str(part.data):
        yield SPLAT
        for inner in _trees(part):
            yield from _read_step(inner)
    else:
        yield INDEX


def _bare(tree: Expression) -> Expression:
    children = _trees(tree)
    return _bare(children[0]) if tree.data == "expr_term" and len(children) == 1 else tree


def _trees(tree: Expression) -> list[Expression]:
    return [child for child in tree.children if isinstance(child, Tree) and child.data != _BLANK]


def _tokens(tree: Expression) -> list[str]:
    return [str(token) for token in tree.scan_values(lambda _: True)]
