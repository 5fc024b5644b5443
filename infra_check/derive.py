"""Writes `provider_schema.json`: what the resource types that `infra/` uses are made of.

`python -m infra_check.derive PACKAGE_DIR…` reads unpacked npm packages of bindings that were generated from the real
providers' own schemas (`npm pack --ignore-scripts @cdktf/provider-google@16.12.1`, the same for
`@cdktf/provider-google-beta`, each unpacked). Nothing of them is run. Only facts are kept: names, types, what is
required, how blocks nest. The packages are MPL-2.0; no text of theirs is copied. 16.12.1 is the last there will be, of
provider 6.50.0: a newer provider's schema is to be had from `terraform providers schema -json`.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra_check.configuration import INFRA, read_configuration
from infra_check.schema import SCHEMA_FILE

_CLASS = re.compile(r"^export class (\w+) extends cdktf\.(\w+) \{\n(.*?)^\}", re.M | re.S)
_MEMBER = re.compile(r"^  // (\w+) - computed: (true|false), optional: (true|false), required: (true|false)\n", re.M)
_NESTED = re.compile(r'= new ([\w.]+)\(this, "\w+"(?:, (true|false))?\)')
_MAP = re.compile(r"cdktf\.(String|Number|Boolean|Any)Map")
_GETTER = re.compile(
    r"(Fn\.tolist\()?this\.get(String|Number|Boolean|List|NumberList|StringMap|NumberMap|BooleanMap)Attr"
)
_TYPES: dict[str, Any] = {
    "String": "string",
    "Number": "number",
    "Boolean": "bool",
    "List": ["list", "string"],
    "NumberList": ["list", "number"],
    "StringMap": ["map", "string"],
    "NumberMap": ["map", "number"],
    "BooleanMap": ["map", "bool"],
    "AnyMap": "dynamic",
}
"""What the bindings call a type, and Terraform's own notation of it, as JSON."""
_INTERFACE = re.compile(r"^export interface (\w+)(?: extends [\w.]+)? \{\n(.*?)^\}", re.M | re.S)
_TOP = ("TerraformResource", "TerraformDataSource")
_SINGLE = "timeouts"
"""The one block of the SDK's that nests as an object of its own, not as a list of one."""


@dataclass(frozen=True, slots=True)
class _Source:
    """Of one resource type: parent and body of each class, and what documentation lists."""

    classes: Mapping[str, tuple[str, str]]
    values: Mapping[tuple[str, str], list[str]]


def derive(packages: list[Path], resources: set[str], data: set[str]) -> dict[str, Any]:
    """The schema file's content. Raises LookupError for a type that no package has."""
    return {
        "sources": [_describe(package) for package in packages],
        "resources": {name: _find(packages, name, "") for name in sorted(resources)},
        "data": {name: _find(packages, name, "data-") for name in sorted(data)},
    }


def _describe(package: Path) -> dict[str, str]:
    about = json.loads((package / "package.json").read_text())
    provider = about["cdktf"]["provider"]
    return {
        "package": about["name"],
        "version": about["version"],
        "license": about["license"],
        "provider": provider["name"].removeprefix("registry.terraform.io/"),
        "provider_version": provider["version"],
    }


def _find(packages: list[Path], name: str, prefix: str) -> dict[str, Any]:
    """The first package that has the type wins: give the stable provider before the beta one."""
    short = name.removeprefix("google_").replace("_", "-")
    folders = (f"data-google-{short}",) if prefix else (short, f"google-{short}")
    for package in packages:
        for folder in folders:
            path = package / "lib" / folder
            if path.is_dir():
                provider = _describe(package)["provider"].rpartition("/")[2]
                return {"provider": provider, **_read_type("".join(_read_sources(path)))}
    raise LookupError(f"no package has {name}")


def _read_sources(folder: Path) -> Iterator[str]:
    """The TypeScript that the package carries in its source maps; it says more than what was compiled from it."""
    for path in sorted(folder.rglob("*.js")):
        for encoded in re.findall(r"sourceMappingURL=data:application/json;base64,(\S+)", path.read_text()):
            yield from json.loads(base64.b64decode(encoded))["sourcesContent"]


def _read_type(text: str) -> dict[str, Any]:
    source = _Source({name: (parent, body) for name, parent, body in _CLASS.findall(text)}, _read_values(text))
    ((name, body),) = ((name, body) for name, (parent, body) in source.classes.items() if parent in _TOP)
    return _read_block(name, body, source)


def _read_values(text: str) -> dict[tuple[str, str], list[str]]:
    """The values that the documentation lists, by interface and attribute."""
    found: dict[tuple[str, str], list[str]] = {}
    for interface, body in _INTERFACE.findall(text):
        for comment in re.findall(r"/\*\*(.*?)\*/", body, re.S):
            name = re.search(r"#(\w+) \w+#\w+\}", comment)
            listed = re.search(r"Possible values: \[(.*?)\]", re.sub(r"\n\s*\*", " ", comment))
            if name is not None and listed is not None:
                found[interface, name[1]] = re.findall(r'"([^"]+)"', listed[1])
    return found


def _read_block(name: str, body: str, source: _Source) -> dict[str, Any]:
    """`name` is the class's; the attributes' documentation is with the interface that goes with it."""
    attributes: dict[str, str] = {}
    blocks: dict[str, Any] = {}
    values: dict[str, list[str]] = {}
    interface = name.removesuffix("OutputReference") if name.endswith("OutputReference") else f"{name}Config"
    for member, computed, optional, required, code in _split_members(body):
        nested = _NESTED.search(code)
        if nested is not None and not _MAP.fullmatch(nested[1]) and (optional or required):
            blocks[member] = _read_nested(member, nested, required, source)
            continue
        flags = ["required"] * required + ["optional"] * optional + ["computed"] * computed
        kind = json.dumps(_read_attribute_type(nested, code, source), separators=(",", ":"))
        attributes[member] = " ".join([kind, *flags])
        if listed := source.values.get((interface, member)):
            values[member] = listed
    return {
        "attributes": attributes,
        **({"values": values} if values else {}),
        **({"blocks": blocks} if blocks else {}),
    }


def _split_members(body: str) -> Iterator[tuple[str, bool, bool, bool, str]]:
    """Name, computed, optional, required, and the code of each."""
    marks = [*_MEMBER.finditer(body)]
    ends = [*(mark.start() for mark in marks), len(body)][1:]
    for mark, end in zip(marks, ends, strict=True):
        yield mark[1], mark[2] == "true", mark[3] == "true", mark[4] == "true", body[mark.end() : end]


def _read_nested(name: str, nested: re.Match[str], required: bool, source: _Source) -> dict[str, Any]:
    item, many = _find_item(nested)
    nesting = "single" if name == _SINGLE else "set" if nested[2] == "true" else "list"
    limits = {"min": 1 if required else 0, **({} if many else {"max": 1})}
    return {"nesting": nesting, **limits, **_read_block(item, source.classes[item][1], source)}


def _find_item(nested: re.Match[str]) -> tuple[str, bool]:
    """The class of one item, and whether there may be many."""
    kind = nested[1].rpartition(".")[2]
    return (kind.removesuffix("List") + "OutputReference", True) if kind.endswith("List") else (kind, False)


def _read_attribute_type(nested: re.Match[str] | None, code: str, source: _Source) -> Any:
    if nested is not None:
        if _MAP.fullmatch(nested[1]):
            return _TYPES[nested[1].removeprefix("cdktf.")]
        item, _ = _find_item(nested)
        body = source.classes[item][1]
        inner = {
            member: _read_attribute_type(_NESTED.search(part), part, source)
            for member, *_flags, part in _split_members(body)
        }
        return ["set" if nested[2] == "true" else "list", ["object", inner]]
    getter = _GETTER.search(code)
    if getter is None:
        return "dynamic"
    found = _TYPES[getter[2]]
    return ["set", *found[1:]] if getter[1] else found


def main(arguments: list[str]) -> int:
    if not arguments:
        print(__doc__)
        return 2
    configuration = read_configuration(INFRA)
    resources = {block.labels[0] for block in configuration.blocks("resource")}
    data = {block.labels[0] for block in configuration.blocks("data")}
    try:
        content = derive([Path(argument) for argument in arguments], resources, data)
    except LookupError as error:
        print(error, file=sys.stderr)
        return 1
    SCHEMA_FILE.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
