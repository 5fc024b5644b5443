"""Strict schemas: the overlays are valid, and a field that the API server would drop or refuse is found."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from manifests.builds import Build
from manifests.schemas import Schemas, make_strict, read_crds
from serve_app.errors import ConfigurationError


@pytest.mark.parametrize("overlay", ["gke", "local"])
def test_the_overlays_are_valid(overlay: str, schemas: Schemas, request: pytest.FixtureRequest) -> None:
    built: Build = request.getfixturevalue(overlay)
    assert [str(each) for each in schemas.check(built)] == []
    assert len(built.documents) > 2


def _set(path: str, value: Any) -> Any:
    def mistake(document: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        inner: Any = document
        for key in parents:
            inner = inner[int(key) if key.isdigit() else key]
        inner[last] = value

    return mistake


SEEDED = {
    "a misspelt field of a custom kind": ("RayService", "spec.rayClusterConfig.headGroupSpek", {}, "headGroupSpek"),
    "a misspelt field deep in a pod": (
        "RayService",
        "spec.rayClusterConfig.headGroupSpec.template.spec.containers.0.envFroms",
        [],
        "envFroms",
    ),
    "a number where text is wanted": (
        "RayService",
        "spec.rayClusterConfig.headGroupSpec.rayStartParams.num-cpus",
        0,
        "0 is not of type 'string'",
    ),
    "a word that is none of the few": (
        "RayService",
        "spec.rayClusterConfig.authOptions.mode",
        "tokens",
        "'tokens' is not one of",
    ),
    "a misspelt field of a custom kind's metadata": ("Gateway", "metadata.annotation", {}, "annotation"),
    "a number out of its range": ("HealthCheckPolicy", "spec.default.checkIntervalSec", 301, "301 is greater than"),
    "a misspelt field of a core kind": ("NetworkPolicy", "spec.ingres", [], "ingres"),
    "a wrong type in a core kind": ("ConfigMap", "data.PORT", 8000, "8000 is not of type 'string'"),
    "a misspelt field of a pod template": ("StatefulSet", "spec.template.spec.contianers", [], "contianers"),
}


@pytest.mark.parametrize(("kind", "path", "value", "told"), SEEDED.values(), ids=SEEDED)
def test_a_mistake_is_found(gke: Build, schemas: Schemas, kind: str, path: str, value: Any, told: str) -> None:
    document = copy.deepcopy(gke.list_kind(kind)[0])
    _set(path, value)(document)
    (problem,) = schemas.check_document(document)
    assert told in problem.sentence
    assert problem.path == path.rpartition(".")[0] or problem.path == path
    assert problem.document == f"{kind}/{document['metadata']['name']}"


def test_a_kind_without_a_schema_is_a_mistake(schemas: Schemas) -> None:
    document = {"apiVersion": "pawfect.dev/v1", "kind": "Leash", "metadata": {"name": "red"}}
    (problem,) = schemas.check_document(document)
    assert problem.sentence == "no schema is known for pawfect.dev/v1/Leash."


def test_a_folder_without_schemas_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no custom resource definition"):
        read_crds(tmp_path)


def test_what_kubernetes_adds_to_json_schema_is_translated() -> None:
    schema = {
        "type": "object",
        "properties": {
            "port": {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True},
            "size": {"type": "string", "enum": ["s"], "nullable": True},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "free": {"type": "object", "properties": {}, "x-kubernetes-preserve-unknown-fields": True},
            "items": {"type": "array", "items": {"type": "object", "properties": {}}},
        },
        "anyOf": [{"properties": {"port": {}}, "required": ["port"]}],
        "x-kubernetes-validations": [{"rule": "true"}],
    }
    assert make_strict(schema) == {
        "type": "object",
        "properties": {
            "port": {"type": ["integer", "string"]},
            "size": {"type": ["string", "null"], "enum": ["s", None]},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "free": {"type": "object", "properties": {}},
            "items": {"type": "array", "items": {"type": "object", "properties": {}, "additionalProperties": False}},
        },
        "anyOf": [{"properties": {"port": {}}, "required": ["port"]}],
        "additionalProperties": False,
    }


def test_a_list_of_definitions_is_read_as_a_cluster_writes_it(tmp_path: Path) -> None:
    version = {"name": "v1", "schema": {"openAPIV3Schema": {"type": "object"}}}
    crd = {"kind": "CustomResourceDefinition", "spec": {"group": "a.b", "names": {"kind": "C"}, "versions": [version]}}
    (tmp_path / "all.yaml").write_text(yaml.safe_dump({"kind": "List", "items": [crd]}))
    assert set(read_crds(tmp_path).custom) == {("a.b/v1", "C")}


def test_without_definitions_core_kinds_are_checked_still(gke: Build) -> None:
    schemas = Schemas(only_core=True)
    assert list(schemas.check(gke)) == []
    service = copy.deepcopy(gke.list_kind("Service")[0])
    service["spec"]["prots"] = []
    assert list(schemas.check_document(service)) != []
