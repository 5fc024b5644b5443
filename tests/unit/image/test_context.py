"""What .dockerignore lets into a build, by the rules that Docker's own client has."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.image.dockerfile import DOCKERFILE, ROOT, read_dockerfile
from tests.unit.image.install_steps import list_context

KEPT_OUT = (
    ".env",
    ".env.local",
    ".git/config",
    ".venv/bin/python",
    "build/lib/serve_app/app.py",
    "data/pawfect.db",
    "demo-out/edited.jpg",
    "infra/terraform.tfstate",
    "k8s/overlays/gke-l4/project.env",
    "pawfect/.env",
    "pawfect/__pycache__/command.cpython-311.pyc",
    "pawfect/service-account.pem",
    "serve_app/engines/migan.onnx",
    "serve_app/flux/diffusion_pytorch_model.safetensors",
    "weights/u2netp.onnx",
)


@pytest.fixture
def context(tmp_path: Path) -> Path:
    shutil.copy(ROOT / ".dockerignore", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", KEPT_OUT)
def test_secrets_weights_and_leftovers_stay_out(context: Path, name: str) -> None:
    (context / name).parent.mkdir(parents=True, exist_ok=True)
    (context / name).write_text("x")
    assert list_context(context) == set()


def test_what_is_copied_is_let_in_and_nothing_else() -> None:
    dockerfile = read_dockerfile(DOCKERFILE.read_text())
    steps = [step for stage in dockerfile.stages.values() for step in stage.instructions if step.name == "COPY"]
    named = {path for step in steps if step.source_stage is None for path in step.paths[:-1]}
    allowed = list_context(ROOT)
    assert {name.split("/")[0] for name in allowed} == named


def test_every_file_of_the_code_is_let_in() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "serve_app", "ingress", "pawfect"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(listed) > 100
    assert not set(listed) - list_context(ROOT)
