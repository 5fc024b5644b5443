"""Whether names in expressions are declared, and what is declared is used."""

from __future__ import annotations

from collections.abc import Iterator

from infra_check.configuration import Block, Configuration
from infra_check.expressions import INDEX, SPLAT, Traversal, find_traversals, has_heredoc
from infra_check.schema import BlockType, ProviderSchema

BUILT_IN = frozenset({"path", "terraform", "self", "null", "true", "false"})
_WORDS = {"variable": ("type",), "resource": ("provider",), "data": ("provider",), "lifecycle": ("ignore_changes",)}
"""Attributes whose words are types, providers or names of attributes, by the kind of block that they are in."""


def check_references(configuration: Configuration, schema: ProviderSchema) -> Iterator[str]:
    used: set[str] = set()
    for block in configuration.top:
        place = f"infra/{block.file}: {block.address or block.kind}"
        for traversal, scope in _find_all(block, frozenset()):
            used.add(".".join(traversal.names[:2]))
            if wrong := _find_wrong(traversal, scope, configuration, schema):
                yield f"{place}: {wrong}"
        if any(has_heredoc(expression) for expression in block.expressions()):
            yield f"{place}: a heredoc, which is not looked into; write a join of lines"
    for variable in configuration.blocks("variable"):
        if variable.address not in used:
            yield f"infra/{variable.file}: {variable.address}: nothing uses it"
    for name in configuration.locals():
        if f"local.{name}" not in used:
            yield f"infra: local.{name}: nothing uses it"


def _find_all(block: Block, scope: frozenset[str]) -> Iterator[tuple[Traversal, frozenset[str]]]:
    """Each reference with the names that blocks around it introduce."""
    if "for_each" in block.attributes and block.kind in ("resource", "data"):
        scope |= {"each"}
    if "count" in block.attributes:
        scope |= {"count"}
    for name, expression in block.attributes.items():
        if name not in _WORDS.get(block.kind, ()):
            for traversal in find_traversals(expression):
                yield traversal, scope
    for inner in block.inner:
        if inner.kind != "required_providers":
            yield from _find_all(inner, scope | ({inner.labels[0]} if inner.kind == "dynamic" else set()))


def _find_wrong(
    traversal: Traversal, scope: frozenset[str], configuration: Configuration, schema: ProviderSchema
) -> str | None:
    names = traversal.names
    root, written = names[0], ".".join(names)
    if root in BUILT_IN or root in scope:
        return None
    if root in ("each", "count"):
        return f"{written} without a {'for_each' if root == 'each' else 'count'}"
    if root in ("var", "local"):
        declared = (
            {one.labels[0] for one in configuration.blocks("variable")} if root == "var" else configuration.locals()
        )
        return None if len(names) > 1 and names[1] in declared else f"{root}.{'.'.join(names[1:2])} is not declared"
    kind, length = ("data", 3) if root == "data" else ("resource", 2)
    if len(names) < length:
        return f"{written} is not declared"
    try:
        declared_block = configuration.find(".".join(names[:length]))
    except KeyError:
        return f"{'.'.join(names[:length])} is not declared"
    types = schema.data if kind == "data" else schema.resources
    return _find_wrong_member(traversal, length, declared_block, types.get(names[length - 1 - (kind != "data")]))


def _find_wrong_member(traversal: Traversal, length: int, block: Block, known: BlockType | None) -> str | None:
    after = traversal.steps[length:]
    address = ".".join(traversal.names[:length])
    many = "count" in block.attributes or "for_each" in block.attributes
    if not after:
        return None
    if many != (after[0] in (INDEX, SPLAT)):
        return f"{address} {'has many instances; name one' if many else 'has one instance and no index'}"
    member = next((step for step in after if step not in (INDEX, SPLAT)), None)
    if member is None or known is None or member in known.attributes or member in known.blocks:
        return None
    return f'{address} has no "{member}"'
