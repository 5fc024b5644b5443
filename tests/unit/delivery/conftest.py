"""A clone with two commits of this project's own manifests, a cluster that is none, and a registry that is a file."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from delivery.deployment import Order
from delivery.project import read_values, write_values
from delivery.rollout import Patience
from tests.unit.delivery.kubernetes import FakeCluster, FakeServer

ROOT = Path(__file__).parents[3]
ENV = "k8s/overlays/gke-l4/project.env"
IMAGE = "us-east4-docker.pkg.dev/pets-1234/pawfect/pawfect"
VALUES = {
    "PROJECT_ID": "pets-1234",
    "REGION": "us-east4",
    "HOSTNAME": "pets.acme.dev",
    "IMAGE": IMAGE,
    "SERVE_ACCOUNT": "pawfect-serve@pets-1234.iam.gserviceaccount.com",
    "WEIGHTS_ACCOUNT": "pawfect-weights@pets-1234.iam.gserviceaccount.com",
    "PUSH_ACCOUNT": "pawfect-push@pets-1234.iam.gserviceaccount.com",
    "PHOTOS_BUCKET": "pets-1234.appspot.com",
    "WEIGHTS_BUCKET": "pets-1234-pawfect-weights",
    "HEADSHOT_ORIGINALS_BUCKET": "pets-1234-pawfect-headshots-originals",
    "HEADSHOT_OUTPUTS_BUCKET": "pets-1234-pawfect-headshots-outputs",
    "PUSH_AUDIENCE": "https://pets.acme.dev/",
    "STATIC_ADDRESS": "pawfect",
    "CERTIFICATE_MAP": "pawfect",
    "ALLOWED_CALLERS": '["pawfect-deploy@pets-1234.iam.gserviceaccount.com"]',
}
"""Whatever the project is whose file is committed."""
QUICK = Patience(timeout_s=20, sick_s=0.1, poll_s=0.01)

GCLOUD = """#!/bin/sh
test "$1" = artifacts || { echo "token-of-gcloud $*"; exit 0; }
grep -qxF "$5" "$REGISTRY" && exit 0
echo "ERROR: (gcloud.artifacts.docker.images.describe) NOT_FOUND: $5" >&2
exit 1
"""


@dataclass(frozen=True)
class Clone:
    """`old` and `new` are commits; `registry` lists the images there are."""

    root: Path
    old: str
    new: str
    registry: Path

    def order(self, tag: str, **options: object) -> Order:
        values = read_values(self.root / ENV)
        return Order(self.root, "gke-l4", tag, values, patience=QUICK, weights_patience=QUICK, **options)  # type: ignore[arg-type]

    def commit(self, message: str) -> str:
        git(self.root, "add", "--all")
        git(self.root, "commit", "--quiet", "--allow-empty", "--message", message)
        sha = git(self.root, "rev-parse", "HEAD")
        with self.registry.open("a") as file:
            file.write(f"{IMAGE}:{sha}\n")
        return sha


def git(root: Path, *words: str) -> str:
    who = ["-c", "user.name=test", "-c", "user.email=test@test.test"]
    return subprocess.run(["git", *who, *words], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def put_program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder before all others in PATH, with a gcloud that knows a registry."""
    folder = tmp_path / "bin"
    folder.mkdir()
    put_program(folder, "gcloud", GCLOUD)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("REGISTRY", str(tmp_path / "registry"))
    return folder


@pytest.fixture
def clone(tmp_path: Path, programs: Path) -> Clone:
    root, registry = tmp_path / "clone", tmp_path / "registry"
    shutil.copytree(ROOT / "k8s", root / "k8s")
    git(root, "init", "--quiet", "--initial-branch=main")
    write_values(root / ENV, VALUES)
    first = Clone(root, "", "", registry)
    settings = root / "k8s/base/settings.env"
    settings.write_text(settings.read_text() + "SERVICE_NAME=old\n")
    old = first.commit("the old one")
    settings.write_text(settings.read_text().replace("SERVICE_NAME=old", "SERVICE_NAME=new"))
    return Clone(root, old, first.commit("the new one"), registry)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.setenv("HOME", str(tmp_path))  # kubectl keeps what it discovers there
    with FakeServer(tmp_path) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.config))
        yield server


@pytest.fixture
def cluster(server: FakeServer) -> FakeCluster:
    return server.cluster
