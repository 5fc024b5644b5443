"""The plans that Terraform makes of `infra/`, once a session: 2 s each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from infra_check.configuration import INFRA
from infra_check.examples import EXAMPLES
from infra_check.plan import Plan, find_terraform, make_plan

Copy = Callable[..., Path]


@pytest.fixture(scope="session")
def terraform() -> str:
    if (found := find_terraform()) is None:
        pytest.skip("terraform is not installed")
    return found


@pytest.fixture(scope="session")
def empty(terraform: str) -> Plan:
    return make_plan(INFRA, EXAMPLES["an empty project"])


@pytest.fixture(scope="session")
def backed(terraform: str) -> Plan:
    return make_plan(INFRA, EXAMPLES["an empty project with a backend"])


@pytest.fixture(scope="session")
def full(terraform: str) -> Plan:
    return make_plan(INFRA, EXAMPLES["a project with the app in it"])


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy of `infra/` and of what it reads, with replacements (file, old, new), each of which must be possible."""

    def make(*changes: tuple[str, str, str]) -> Path:
        folder = tmp_path_factory.mktemp("seeded") / "infra"
        shutil.copytree(INFRA, folder, ignore=shutil.ignore_patterns(".terraform*"))
        shutil.copy(INFRA.parent / "firestore.indexes.json", folder.parent)
        for file, old, new in changes:
            text = (folder / file).read_text() if (folder / file).exists() else ""
            assert text.count(old) >= 1 or (not text and not old), f"{file} has no {old!r}"
            (folder / file).write_text(text.replace(old, new, 1) if old else text + new)
        return folder

    return make
