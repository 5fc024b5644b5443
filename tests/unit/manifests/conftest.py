"""The overlays as Kustomize builds them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from manifests.builds import Build, build
from manifests.pages import OVERLAYS, ROOT
from manifests.schemas import Schemas, read_crds

CRDS = Path(os.environ.get("CRDS", ROOT.parent / "shared" / "crds"))


@pytest.fixture(scope="session")
def kubectl() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed; it builds the overlays")


@pytest.fixture(scope="session")
def gke(kubectl: None) -> Build:
    return build(ROOT / OVERLAYS / "gke-l4")


@pytest.fixture(scope="session")
def local(kubectl: None) -> Build:
    return build(ROOT / OVERLAYS / "local-cpu")


@pytest.fixture(scope="session")
def traced(kubectl: None, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The overlay of GKE with the component of traces."""
    copied = tmp_path_factory.mktemp("traced") / "k8s"
    shutil.copytree(ROOT / "k8s", copied)
    overlay = copied / "overlays/gke-l4"
    with (overlay / "kustomization.yaml").open("a") as file:
        file.write("components:\n  - ../../components/tracing\n")
    return build(overlay)


@pytest.fixture(scope="session")
def schemas() -> Schemas:
    if not CRDS.is_dir():
        pytest.skip("no folder of custom resource definitions (variable CRDS, by default ../shared/crds)")
    return read_crds(CRDS)
