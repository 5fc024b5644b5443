"""Shell that stands inside YAML is linted as shell that stands by itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
SHELLCHECK = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or "shellcheck"


def read_build() -> dict[str, str]:
    steps = yaml.safe_load((ROOT / "cloudbuild.yaml").read_text())["steps"]
    # Cloud Build's own substitutions look like variables that nobody sets; $$ is how it writes a $ of the shell's.
    return {f"cloudbuild.yaml: {step['id']}": step["args"][1].replace("$$", "$") for step in steps}


def read_workflows() -> dict[str, str]:
    found = {}
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            runs = [step["run"] for step in job.get("steps", []) if "run" in step]
            found |= {f"{path.name}: {text.splitlines()[0]}": text for text in runs}
    return found


SCRIPTS = read_build() | read_workflows()


def lint(script: str) -> str:
    command = [SHELLCHECK, "--shell=bash", "--exclude=SC2154", "-"]
    return subprocess.run(command, input=f"set -eu\n{script}", text=True, capture_output=True, check=False).stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_clean(name: str) -> None:
    assert lint(SCRIPTS[name]) == ""


def test_a_mistake_is_seen() -> None:
    assert "SC2086" in lint("name='a b'\nrm $name\n")
