"""Cloud Build and the workflows: pinned, with few rights, without keys, and with commands that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from delivery.arguments import parse

ROOT = Path(__file__).parents[3]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CLOUD_BUILD = ROOT / "cloudbuild.yaml"
ACTS = dict.fromkeys(("build", "deploy", "rollback", "verify"), lambda _options: 0)
PINNED = re.compile(r"uses: [\w-]+/[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")


def read(path: Path) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load(path.read_text())
    return found


def read_scripts(path: Path) -> list[str]:
    whole = read(path)
    steps = [step for job in whole.get("jobs", {}).values() for step in job.get("steps", [])]
    return [step["run"] for step in steps if "run" in step] + [step["args"][1] for step in whole.get("steps", [])]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_others_wrote_is_pinned(path: Path) -> None:
    used = [line.strip().removeprefix("- ") for line in path.read_text().splitlines() if "uses:" in line]
    assert used
    assert [line for line in used if not PINNED.fullmatch(line) and not line.startswith("uses: ./")] == []


def test_one_action_has_one_version() -> None:
    used = {name for path in WORKFLOWS for name in re.findall(r"uses: (\S+/\S+@\S+ # \S+)", path.read_text())}
    assert len({name.partition("@")[0] for name in used}) == len(used)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_jobs_have_few_rights_and_an_end(path: Path) -> None:
    whole = read(path)
    assert whole["permissions"] == {}
    assert "concurrency" in whole
    assert "secrets" not in path.read_text()
    for job in whole["jobs"].values():
        assert set(job["permissions"]) <= {"contents", "id-token"}
        assert job["permissions"]["contents"] == "read"
        assert ("id-token" in job["permissions"]) == (job.get("environment") == "production")
        assert "uses" in job or job["timeout-minutes"]


@pytest.mark.parametrize("path", [*WORKFLOWS, CLOUD_BUILD], ids=lambda path: path.name)
def test_no_input_is_written_into_a_script(path: Path) -> None:
    assert [script for script in read_scripts(path) if "${{" in script] == []


@pytest.mark.parametrize("path", [CLOUD_BUILD, ROOT / ".github/workflows/deliver.yml"], ids=lambda path: path.name)
def test_the_commands_are_ours(path: Path) -> None:
    text = "\n".join(read_scripts(path)).replace("\\\n", " ").replace('${TAG:+--tag="$TAG"}', "--tag=v1")
    verbs = []
    for line in text.splitlines():
        if "python -m delivery" in line:
            words = shlex.split(line.partition("python -m delivery")[2].replace('"$VERB"', "rollback"))
            parse(words, "", ACTS)  # ends the test for an option that there is not
            verbs.append(words[0])
    assert verbs in (["build", "deploy"], ["build", "rollback"])


def test_cloud_build_tests_before_it_builds_before_it_deploys() -> None:
    whole = read(CLOUD_BUILD)
    assert [step["id"] for step in whole["steps"]] == ["tools", "test", "build", "deploy"]
    assert whole["options"]["logging"] == "CLOUD_LOGGING_ONLY"
    assert "/serviceAccounts/pawfect-deploy@" in whole["serviceAccount"]
    given = set(re.findall(r"\$\{?(_[A-Z_]+)", CLOUD_BUILD.read_text()))
    assert given == set(whole["substitutions"])
    longest = sum(int(step.get("timeout", "600s").removesuffix("s")) for step in whole["steps"])
    assert int(whole["timeout"].removesuffix("s")) >= longest
