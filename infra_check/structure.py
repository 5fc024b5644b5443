"""Whether blocks are made of what the provider's types have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from infra_check.configuration import Block, Configuration
from infra_check.expressions import read_literal
from infra_check.schema import BlockType, ProviderSchema

META_ATTRIBUTES = frozenset({"count", "for_each", "depends_on", "provider"})
META_BLOCKS = frozenset({"lifecycle", "provisioner", "connection"})
"""Terraform's own, of every resource: https://developer.hashicorp.com/terraform/language/resources."""


def check_structure(configuration: Configuration, schema: ProviderSchema) -> Iterator[str]:
    for block in configuration.blocks("resource"):
        yield from _check_type(block, schema.resources.get(block.labels[0]))
        provider = read_literal(block.attributes["provider"]) if "provider" in block.attributes else "google"
        needed = schema.providers.get(block.labels[0], provider)
        if provider != needed:
            yield f"{_place(block)}: the type is {needed}'s; say provider = {needed}"
    for block in configuration.blocks("data"):
        yield from _check_type(block, schema.data.get(block.labels[0]))


def _check_type(block: Block, known: BlockType | None) -> Iterator[str]:
    if known is None:
        yield f"{_place(block)}: no type {block.labels[0]}; if it is new here, renew the schema (infra_check.derive)"
        return
    inner = [one for one in block.inner if one.kind not in META_BLOCKS]
    yield from _check_block(_place(block), block, inner, known, META_ATTRIBUTES)


def _check_block(
    place: str, block: Block, inner: Iterable[Block], known: BlockType, also: frozenset[str] = frozenset()
) -> Iterator[str]:
    for name, value in block.attributes.items():
        if name in also:
            continue
        kind = known.attributes.get(name)
        if kind is None:
            hint = ", it is a block" if name in known.blocks else ""
            yield f'{place}: no attribute "{name}"{hint}'
        elif not kind.settable:
            yield f'{place}: "{name}" is for the provider to say'
        elif kind.values and (text := read_literal(value)) not in (None, "null", *kind.values):
            yield f'{place}: "{name}" is {text}; it may be {", ".join(kind.values)}'
    for name, kind in known.attributes.items():
        if kind.required and name not in block.attributes:
            yield f'{place}: "{name}" is missing'
    yield from _check_inner(place, list(inner), known)


def _check_inner(place: str, inner: list[Block], known: BlockType) -> Iterator[str]:
    counted: dict[str, int] = {}
    dynamic = set()
    for one in inner:
        name = one.labels[0] if one.kind == "dynamic" else one.kind
        kind = known.blocks.get(name)
        if kind is None:
            hint = ", it is an attribute" if name in known.attributes else ""
            yield f'{place}: no block "{name}"{hint}'
            continue
        if one.kind == "dynamic":
            dynamic.add(name)
            for content in (each for each in one.inner if each.kind == "content"):
                yield from _check_block(f"{place}.{name}", content, content.inner, kind)
        else:
            counted[name] = counted.get(name, 0) + 1
            yield from _check_block(f"{place}.{name}", one, one.inner, kind)
    for name, kind in known.blocks.items():
        if counted.get(name, 0) < kind.min and name not in dynamic:
            yield f'{place}: block "{name}" is missing'
        if kind.max is not None and counted.get(name, 0) > kind.max:
            yield f'{place}: {counted[name]} blocks "{name}", where {kind.max} may be'


def _place(block: Block) -> str:
    return f"infra/{block.file}: {block.address}"
