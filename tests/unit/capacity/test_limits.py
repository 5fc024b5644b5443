"""Limits are read where they are set: raising one takes `make docs` and no change of code."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from capacity.limits import LIMITS, RAY_SERVICE, ROOT, SERVE_CONFIG, read_limits


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Of what the tables are made of, with one more L4 and one more pod of group cpu than today."""
    shutil.copytree(ROOT / "capacity", tmp_path / "capacity")
    for name in (SERVE_CONFIG, RAY_SERVICE, Path("docs/operations.md")):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / name, tmp_path / name)
    raise_limit(tmp_path / SERVE_CONFIG, "name: FluxFill", "max_replicas", LIMITS.l4s)
    raise_limit(tmp_path / RAY_SERVICE, "groupName: cpu", "maxReplicas", LIMITS.cpu_pods)
    return tmp_path


def raise_limit(path: Path, after: str, key: str, today: int) -> None:
    before, found, rest = path.read_text().partition(after)
    assert f"{key}: {today}\n" in rest
    path.write_text(before + found + rest.replace(f"{key}: {today}\n", f"{key}: {today + 1}\n", 1))


def run(folder: Path, *options: str) -> int:
    return subprocess.run([sys.executable, "-m", "capacity", *options], cwd=folder, check=False).returncode


def test_limits_are_read(copy: Path) -> None:
    assert read_limits(copy) == replace(LIMITS, l4s=LIMITS.l4s + 1, cpu_pods=LIMITS.cpu_pods + 1)


def test_a_raised_limit_makes_the_page_stale_until_it_is_written_anew(copy: Path) -> None:
    assert run(copy, "--check") == 1
    assert run(copy) == 0
    assert run(copy, "--check") == 0
    page = (copy / "docs/operations.md").read_text()
    assert f"| L4s | {LIMITS.l4s + 1} L4s: " in page
    assert f"- **{LIMITS.l4s + 1} L4s and a spike.**" in page
    assert f"{LIMITS.cpu_pods + 1} × e2-standard-8" in page
