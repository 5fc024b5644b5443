"""The rendered manifests on real Ray, as far as a minute or two goes; `python -m bench.cluster` does all of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cluster import find_reason
from bench.cluster_trial import SESSIONS

pytestmark = pytest.mark.serve

PATIENCE_S = 900.0
"""Above what the command itself waits before it says what is missing."""


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    if (reason := find_reason()) is not None:
        pytest.skip(f"the manifests' pods cannot run here: {reason}")
    folder: Path = tmp_path_factory.mktemp("cluster")
    command = [sys.executable, "-m", "bench.cluster", "--steps", "start", "edit", "tune"]
    with (folder / "log").open("w") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, timeout=PATIENCE_S, check=False)
    said = (folder / "log").read_text()
    assert done.returncode == 0, said[-6000:]
    found: dict[str, float] = json.loads(said.splitlines()[-1])
    return found


def test_pods_are_ready_by_kuberays_own_probes_though_ray_wants_a_token(figures: dict[str, float]) -> None:
    assert figures["health_check_ok"] == 1
    assert figures["probes_failed"] == 0


def test_every_pod_tells_its_metrics(figures: dict[str, float]) -> None:
    assert figures["metrics_failed"] == 0


def test_a_session_pushed_to_a_pod_ends_with_its_edited_photo(figures: dict[str, float]) -> None:
    assert figures["edited"] == SESSIONS


def test_a_changed_quality_row_replaces_no_replica(figures: dict[str, float]) -> None:
    assert figures["tuned_completed"] == 1
    assert figures["tuned_new_replicas"] == 0
