"""What a mistake is: a change of one document of a build; and how it is made."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import yaml

from manifests.builds import Build
from manifests.problems import Problem
from manifests.rulebook import check_rules

Tree = dict[str, Any]
Change = Callable[[Tree], None]
CLUSTER = "spec.rayClusterConfig"
HEAD = f"{CLUSTER}.headGroupSpec"
CPU, SPOT, L4 = (f"{CLUSTER}.workerGroupSpecs.{number}" for number in range(3))
GROUPS = (HEAD, CPU, SPOT, L4)
POD = "template.spec"
RAY = f"{POD}.containers.0"
GONE = object()
"""Stands for a field that is taken away."""


def put(path: str, value: Any) -> Change:
    def change(document: Tree) -> None:
        *parents, last = path.split(".")
        inner: Any = document
        for key in parents:
            inner = inner[int(key)] if isinstance(inner, list) else inner.setdefault(key, {})
        place: Any = int(last) if isinstance(inner, list) else last
        if value is GONE:
            del inner[place]
        else:
            inner[place] = value

    return change


def reach(document: Tree, path: str) -> Any:
    inner: Any = document
    for key in path.split("."):
        inner = inner[int(key)] if isinstance(inner, list) else inner[key]
    return inner


def put_variable(group: str, name: str, value: Any) -> Change:
    """In the environment of the group's Ray container; GONE takes it away."""

    def change(document: Tree) -> None:
        container = reach(document, f"{group}.{RAY}")
        others = [each for each in container.get("env", []) if each["name"] != name]
        container["env"] = others + ([] if value is GONE else [{"name": name, "value": value}])

    return change


def put_serve(path: str, value: Any) -> Change:
    """In the Serve config; `Name.field` below `deployments` is the field of that deployment."""

    def change(document: Tree) -> None:
        config = yaml.safe_load(document["spec"]["serveConfigV2"])
        if path.startswith("deployments."):
            _, name, field = path.split(".", 2)
            deployments = config["applications"][0]["deployments"]
            put(field, value)(next(each for each in deployments if each["name"] == name))
        else:
            put(path, value)(config)
        document["spec"]["serveConfigV2"] = yaml.safe_dump(config, sort_keys=False)

    return change


def both(*changes: Change) -> Change:
    def change(document: Tree) -> None:
        for each in changes:
            each(document)

    return change


def port(group: str, name: str, number: int) -> Change:
    def change(document: Tree) -> None:
        ports = reach(document, f"{group}.{RAY}.ports")
        next(each for each in ports if each["name"] == name)["containerPort"] = number

    return change


SETTINGS, RAY_SETTINGS = "ConfigMap/pawfect-settings", "ConfigMap/pawfect-ray"
SERVICE = "RayService/pawfect"
CONFIG_MAP = {"configMapRef": {"name": "nowhere"}}
Mistakes = dict[str, tuple[str, str, Change, str]]
"""What it is → the rule, the document, the change, what is told of it."""


def spoil(built: Build, document: str, change: Change) -> Build:
    """The build with a mistake in one document; generated names end in a hash, which is not told."""
    documents = copy.deepcopy(built.documents)
    kind, name = document.split("/")
    pattern = re.compile(rf"{re.escape(name)}(-[a-z0-9]{{10}})?")
    (chosen,) = [each for each in documents if each["kind"] == kind and pattern.fullmatch(each["metadata"]["name"])]
    change(chosen)
    return replace(built, documents=documents)


def find(built: Build) -> list[Problem]:
    return list(check_rules(built))
