"""Each rule finds its mistake, seeded in the overlay as it is built, and no other rule sees one there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from manifests.builds import Build
from manifests.problems import Problem
from manifests.rulebook import RULES
from tests.unit.manifests.mistakes import CLUSTER, SERVICE, Change, Mistakes, find, put, spoil
from tests.unit.manifests.network_mistakes import NETWORK_MISTAKES
from tests.unit.manifests.pods_mistakes import PODS_MISTAKES
from tests.unit.manifests.ray_mistakes import RAY_MISTAKES

SEEDED: Mistakes = {**RAY_MISTAKES, **PODS_MISTAKES, **NETWORK_MISTAKES}
KNOCK_ON = {
    "ray-head": ["drain-replicas"],
    "metrics-ports": ["network-collectors"],
    "network-selectors": ["network-collectors"],
}
"""Rule → others that rightly see the same: replicas on the head end with its short drain; a port of another number, or
a policy of another pod, keeps collectors out."""
WHOLE = ("ray-name", "network-covered", "serve-generated")
"""Rules whose mistakes are more than one field's, or are seen by another rule, too; each has a test of its own."""


@pytest.fixture(scope="module")
def unspoilt(gke: Build) -> set[Problem]:
    return set(find(gke))


@pytest.mark.parametrize("overlay", ["gke", "local", "traced"])
def test_the_overlays_keep_the_rules(overlay: str, request: pytest.FixtureRequest) -> None:
    assert [str(each) for each in find(request.getfixturevalue(overlay))] == []


@pytest.mark.parametrize(("rule", "document", "change", "told"), SEEDED.values(), ids=SEEDED)
def test_a_rule_finds_its_mistake(
    gke: Build, unspoilt: set[Problem], rule: str, document: str, change: Change, told: str
) -> None:
    problems = [each for each in find(spoil(gke, document, change)) if each not in unspoilt]
    others = [each for each in problems if each.rule not in (rule, "serve-generated", *KNOCK_ON.get(rule, ()))]
    assert told in " ".join(str(each) for each in problems if each.rule == rule)
    assert others == []


def test_every_rule_has_a_mistake_that_it_finds() -> None:
    assert {rule for rule, *_ in SEEDED.values()} | set(WHOLE) == {rule.name for rule in RULES}


def test_a_name_that_is_too_long(gke: Build) -> None:
    problems = find(spoil(gke, SERVICE, put("metadata.name", "p" * 48)))
    assert "48 characters; KubeRay takes 47." in {each.sentence for each in problems if each.rule == "ray-name"}
    assert "ray-name" not in {each.rule for each in find(spoil(gke, SERVICE, put("metadata.name", "p" * 47)))}


def test_a_name_that_is_no_label(gke: Build) -> None:
    problems = find(spoil(gke, SERVICE, put("metadata.name", "Pawfect")))
    assert [each.sentence for each in problems if each.rule == "ray-name"] == [
        "is no DNS label (a-z, 0-9 and hyphens, a letter first)."
    ]


def test_a_secret_in_the_repository(gke: Build) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x", "namespace": "pawfect"}, "data": {}}
    problems = set(find(replace(gke, documents=(*gke.documents, secret)))) - set(find(gke))
    assert [each.sentence for each in problems] == ["is in the repository; a Secret is made in the cluster."]


def test_rules_have_a_reason_and_a_source() -> None:
    assert [rule.name for rule in RULES if not (rule.reason and rule.source)] == []
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_a_problem_says_where(gke: Build) -> None:
    built = spoil(gke, SERVICE, put(f"{CLUSTER}.rayVersion", "2.59.0"))
    (problem,) = [each for each in find(built) if each.rule == "ray-version"]
    assert str(problem).startswith("RayService/pawfect: spec.rayClusterConfig.rayVersion: is 2.59.0; ")
    assert str(problem).endswith(" [ray-version]")
    assert Path(built.folder).name == "gke-l4"
