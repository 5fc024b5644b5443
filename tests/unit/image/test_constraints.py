"""constraints.txt: all that pyproject.toml asks for, and what that brings along, at one version that fits everyone."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib

import pytest
from packaging.requirements import Requirement

from tests.unit.image.dockerfile import ROOT
from tests.unit.image.install_steps import normalize, read_constraints

TEXT = (ROOT / "constraints.txt").read_text()
PINS = read_constraints(TEXT)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ASKED = [Requirement(row) for row in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["flux"]]]


def find_brought(requirement: Requirement, seen: dict[tuple[str, frozenset[str]], None]) -> list[Requirement]:
    """What the installed distribution needs on this machine, and what that needs, for the requirement's extras."""
    key = (normalize(requirement.name), frozenset(requirement.extras))
    if key in seen:
        return []
    seen[key] = None
    extras = [*requirement.extras, ""]
    rows = [Requirement(row) for row in importlib.metadata.requires(requirement.name) or []]
    needed = [row for row in rows if row.marker is None or any(row.marker.evaluate({"extra": x}) for x in extras)]
    return needed + [deeper for row in needed for deeper in find_brought(row, seen)]


@pytest.mark.parametrize("requirement", ASKED, ids=lambda requirement: requirement.name)
def test_pins_are_what_the_project_asks_for(requirement: Requirement) -> None:
    assert requirement.specifier.contains(PINS[normalize(requirement.name)])


def test_all_that_is_brought_along_is_pinned_to_what_fits() -> None:
    seen: dict[tuple[str, frozenset[str]], None] = {}
    brought = [row for requirement in ASKED for row in find_brought(requirement, seen)]
    assert len({normalize(row.name) for row in brought}) > 80
    assert not {row.name for row in brought} - {row.name for row in brought if normalize(row.name) in PINS}
    misfits = [
        (str(row), PINS[normalize(row.name)])
        for row in brought
        if not row.specifier.contains(PINS[normalize(row.name)], prereleases=True)
    ]
    assert misfits == []


def test_cuda_comes_with_torch() -> None:
    assert {"triton", "nvidia-cublas", "nvidia-cudnn-cu13", "cuda-toolkit"} <= set(PINS)


def test_nothing_but_names_and_versions_is_in_it() -> None:
    rows = [line for line in TEXT.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", row) for row in rows)
    assert len(PINS) == len(rows)
    assert "://" not in TEXT
    assert "Renew it" in TEXT.split("\naccelerate")[0]
