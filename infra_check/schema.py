"""What the provider's resource and data types are made of, as `derive` wrote it down."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCHEMA_FILE = Path(__file__).with_name("provider_schema.json")


@dataclass(frozen=True, slots=True)
class AttributeType:
    """`type` is Terraform's own notation of it, as JSON, such as ["list","string"]; `values` are those that its
    documentation lists, if it does."""

    type: str
    required: bool
    optional: bool
    computed: bool
    values: tuple[str, ...] = ()

    @property
    def settable(self) -> bool:
        return self.required or self.optional


@dataclass(frozen=True, slots=True)
class BlockType:
    """`nesting` is list, set or single; `max` None means any number."""

    attributes: Mapping[str, AttributeType]
    blocks: Mapping[str, BlockType]
    nesting: str = "single"
    min: int = 0
    max: int | None = None


@dataclass(frozen=True, slots=True)
class ProviderSchema:
    """`providers` says which provider has a resource type; `versions` is the version of each provider."""

    resources: Mapping[str, BlockType]
    data: Mapping[str, BlockType]
    providers: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def load_schema(path: Path = SCHEMA_FILE) -> ProviderSchema:
    content = json.loads(path.read_text())
    return ProviderSchema(
        resources={name: _read(block) for name, block in content["resources"].items()},
        data={name: _read(block) for name, block in content["data"].items()},
        providers={name: block["provider"] for name, block in content["resources"].items()},
        versions={source["provider"].rpartition("/")[2]: source["provider_version"] for source in content["sources"]},
    )


def _read(block: Mapping[str, Any]) -> BlockType:
    return BlockType(
        attributes={
            name: _read_attribute(text, block.get("values", {}).get(name, ()))
            for name, text in block["attributes"].items()
        },
        blocks={name: _read(inner) for name, inner in block.get("blocks", {}).items()},
        nesting=block.get("nesting", "single"),
        min=block.get("min", 0),
        max=block.get("max"),
    )


def _read_attribute(text: str, values: Sequence[str]) -> AttributeType:
    kind, *flags = text.split()
    return AttributeType(kind, "required" in flags, "optional" in flags, "computed" in flags, tuple(values))
