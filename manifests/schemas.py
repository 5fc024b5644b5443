"""Whether documents are of their kinds' schemas, strictly: a field that the API server would drop is a mistake."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from jsonschema.exceptions import ValidationError

from manifests.builds import FAST_LOADER, Build, Document
from manifests.problems import Problem, Problems, report
from serve_app.errors import ConfigurationError

KUBERNETES_VERSION = "1.32"
"""Core kinds are checked as this version has them. A later one that a cluster runs has those fields, too; what only a
later one has would be dropped by a cluster that is behind."""
WITHOUT_SCHEMA: dict[str, str] = {}
"""apiVersion/Kind → why there is no schema for it."""
SHOWN = 120
"""Characters of a wrong value that a sentence shows."""


@dataclass
class Schemas:
    """Strict schemas of the custom kinds that a folder of CRDs defines, by apiVersion and kind. With `only_core` there
    is no such folder, and documents of kinds that are none of Kubernetes' own are passed over."""

    custom: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    only_core: bool = False

    def check(self, build: Build) -> Problems:
        for document in build.documents:
            yield from self.check_document(document)

    def check_document(self, document: Document) -> Iterator[Problem]:
        kind = (document["apiVersion"], document["kind"])
        if (schema := self.custom.get(kind)) is not None:
            yield from self._check_custom(document, schema)
        elif "/".join(kind) not in WITHOUT_SCHEMA:
            try:
                yield from (report(document, *found) for found in _check_core(document))
            except kubernetes_validate.SchemaNotFoundError:
                if self.only_core:
                    return
                yield report(document, "", f"no schema is known for {'/'.join(kind)}.")

    def _check_custom(self, document: Document, schema: dict[str, Any]) -> Iterator[Problem]:
        validator = jsonschema.Draft202012Validator(make_strict(schema))
        for error in sorted(validator.iter_errors(document), key=lambda each: each.json_path):
            for leaf in _find_leaves(error):
                path = ".".join(str(part) for part in leaf.absolute_path)
                yield report(document, path, f"{_shorten(leaf.message)}.")
        # A CRD says of `metadata` no more than that it is an object; a core kind's is the same, and known.
        bare = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": document["metadata"]}
        yield from (report(document, *found) for found in _check_core(bare))


def read_crds(folder: Path) -> Schemas:
    """Every served version of every CRD in the folder, also of a List, as `kubectl get crds -o yaml` writes it. Raises
    ConfigurationError where there is none."""
    schemas = Schemas()
    for crd in _read_crds(folder):
        spec = crd["spec"]
        for version in spec["versions"]:
            kind = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
            schemas.custom[kind] = version["schema"]["openAPIV3Schema"]
    if not schemas.custom:
        raise ConfigurationError(f"{folder} has no custom resource definition (*.yaml).")
    return schemas


def _read_crds(folder: Path) -> Iterator[Document]:
    for path in sorted(folder.glob("*.yaml")):
        for document in yaml.load_all(path.read_text(), Loader=FAST_LOADER):
            found = document or {}
            for each in found.get("items", []) if found.get("kind") == "List" else [found]:
                if each.get("kind") == "CustomResourceDefinition":
                    yield each


def make_strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A CRD's schema as JSON schema that takes no field it does not name.

    What Kubernetes adds to the language is translated: `x-kubernetes-int-or-string`, `nullable`,
    `x-kubernetes-preserve-unknown-fields`. CEL rules are left out. allOf, anyOf, oneOf and not stay as they are: they
    are conditions beside `properties` and name only some of the fields.
    """
    strict = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    for name in ("properties", "patternProperties"):
        if name in schema:
            strict[name] = {key: make_strict(value) for key, value in schema[name].items()}
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            strict[name] = make_strict(schema[name])
    is_open = schema.get("x-kubernetes-preserve-unknown-fields", False)
    if "properties" in schema and "additionalProperties" not in schema and not is_open:
        strict["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        strict.pop("anyOf", None)
        strict["type"] = ["integer", "string"]
    if strict.pop("nullable", False) and "type" in strict:
        kinds = strict["type"] if isinstance(strict["type"], list) else [strict["type"]]
        strict["type"] = [*kinds, "null"]
        if "enum" in strict:
            strict["enum"] = [*strict["enum"], None]
    return strict


def _check_core(document: Document) -> Iterator[tuple[str, str]]:
    """Path and sentence of the first mistake that kubernetes-validate finds. Raises SchemaNotFoundError."""
    try:
        kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield ".".join(str(part) for part in error.absolute_path), f"{_shorten(error.message)}."


def _find_leaves(error: ValidationError) -> Iterator[ValidationError]:
    """The error itself; of alternatives (a number or text), what is wrong with each would say less."""
    if error.validator in ("anyOf", "oneOf") or not error.context:
        yield error
    else:
        for inner in error.context:
            yield from _find_leaves(inner)


def _shorten(message: str) -> str:
    return message if len(message) <= 3 * SHOWN else f"{message[:SHOWN]} … {message[-SHOWN:]}"
