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
CHECK, DELIVER = (ROOT / ".github/workflows" / name for name in ("check.yml", "deliver.yml"))
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


def read_steps(path: Path) -> dict[str, dict[Any, Any]]:
    """By id, else by name, else by what is used or run; of several so named the last."""
    whole = read(path)
    steps = whole.get("steps", []) + [step for job in whole.get("jobs", {}).values() for step in job.get("steps", [])]
    names = ("id", "name", "uses", "run")
    return {next(step[key] for key in names if key in step).partition("@")[0]: step for step in steps}


def list_packages(script: str) -> set[str]:
    """What it has apt-get install."""
    lines = re.findall(r"apt-get install ([^\n>;&|]+)", script.replace("\\\n", " "))
    return {word for line in lines for word in line.split() if not word.startswith("-")}


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


@pytest.mark.parametrize("path", [CLOUD_BUILD, DELIVER], ids=lambda path: path.name)
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
    assert [step["id"] for step in whole["steps"]] == ["tools", "terraform", "docker", "test", "build", "deploy"]
    assert whole["options"]["logging"] == "CLOUD_LOGGING_ONLY"
    assert "/serviceAccounts/pawfect-deploy@" in whole["serviceAccount"]
    given = set(re.findall(r"\$\{?(_[A-Z_]+)", CLOUD_BUILD.read_text()))
    assert given == set(whole["substitutions"])
    longest = sum(int(step.get("timeout", "600s").removesuffix("s")) for step in whole["steps"])
    assert int(whole["timeout"].removesuffix("s")) >= longest


PACKAGES = {"iproute2", "prometheus", "redis-server", "wget"}
"""What tests start, and no image and no runner brings."""


def test_github_has_every_tool_that_the_tests_need() -> None:
    """The runner brings make, npm, git and Java (github.com/actions/runner-images, ubuntu-24.04)."""
    steps = read_steps(CHECK)
    script = steps["Prometheus, Redis and tools that tests start"]["run"]
    assert list_packages(script) >= PACKAGES | list_packages((ROOT / ".ci/run").read_text())
    assert "systemctl disable --now prometheus redis-server" in script
    given = set(steps["google-github-actions/setup-gcloud"]["with"]["install_components"].split(","))
    assert given >= {"kubectl", "beta", "pubsub-emulator", "cloud-firestore-emulator"}
    assert list(steps).index("hashicorp/setup-terraform") < list(steps).index(".ci/run")


def test_cloud_build_has_every_tool_that_the_tests_need() -> None:
    """The image itself has kubectl and the emulators (github.com/GoogleCloudPlatform/cloud-sdk-docker)."""
    steps = read_steps(CLOUD_BUILD)
    test, tools = steps["test"]["args"][1], list_packages(steps["tools"]["args"][1])
    ours = {"make", "npm", "default-jre-headless", "git", "ca-certificates"}
    assert list_packages(test) >= PACKAGES | ours | list_packages((ROOT / ".ci/run").read_text())
    assert "python3-pip" in tools
    assert "cp /bin/terraform /tools/bin/" in steps["terraform"]["args"][1]
    assert test.index('PATH="/tools/bin:$$PATH"') < test.index(".ci/run")


def test_cloud_build_has_docker_with_buildkit_for_its_old_daemon() -> None:
    steps = read_steps(CLOUD_BUILD)
    whole = read(CLOUD_BUILD)
    plugins = "/usr/local/lib/docker/cli-plugins"
    assert f"docker-buildx {plugins}/" in steps["docker"]["args"][1]
    assert plugins in [volume["path"] for volume in whole["options"]["volumes"]]
    assert int(whole["substitutions"]["_DOCKER"].partition(".")[0]) < 29  # later ones refuse version 1.41 of the API
    build = steps["build"]["args"][1]
    assert build.index('PATH="/tools/bin:$$PATH"') < build.index("python -m delivery build")


def test_both_check_with_one_terraform() -> None:
    github = read_steps(CHECK)["hashicorp/setup-terraform"]["with"]["terraform_version"]
    assert read(CLOUD_BUILD)["substitutions"]["_TERRAFORM"] == github


def test_github_tests_what_it_builds() -> None:
    whole = read(DELIVER)
    assert read_steps(CHECK)["actions/checkout"]["with"]["ref"] == "${{ inputs.ref }}"
    built = next(step for step in whole["jobs"]["build"]["steps"] if "checkout" in step.get("uses", ""))
    assert whole["jobs"]["check"]["with"]["ref"] == built["with"]["ref"]


def test_kubectl_is_let_in_for_longer_than_an_hour() -> None:
    """The action's own token ends after one, and a deploy may take two."""
    steps = read_steps(DELIVER)
    assert steps["google-github-actions/get-gke-credentials"]["with"]["use_auth_provider"] is True
    components = steps["google-github-actions/setup-gcloud"]["with"]["install_components"]
    assert "gke-gcloud-auth-plugin" in components.split(",")
