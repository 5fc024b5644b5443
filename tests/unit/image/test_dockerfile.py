"""What the Dockerfile promises to the cluster, to operators and to whoever may read an image's history."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from serve_app.settings import Settings
from tests.unit.image.dockerfile import DOCKERFILE, ROOT, Dockerfile, read_dockerfile

TARGETS = ("cpu", "gpu")
PINNED = r"python:(3\.11)\.\d+-slim-\w+@sha256:[0-9a-f]{64}"
SECRET = re.compile("TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|PRIVATE", re.IGNORECASE)


@pytest.fixture(scope="module")
def dockerfile() -> Dockerfile:
    return read_dockerfile(DOCKERFILE.read_text())


def read_environment(dockerfile: Dockerfile, target: str) -> dict[str, str]:
    steps = dockerfile.list_instructions(target, "ENV")
    return {name: value for step in steps for name, value in step.pairs.items()}


def test_every_stage_begins_with_a_stage_or_the_pinned_image(dockerfile: Dockerfile) -> None:
    for stage in dockerfile.stages.values():
        assert stage.parent in dockerfile.stages or re.fullmatch(PINNED, stage.parent), stage.name


def test_images_python_is_the_one_that_types_are_checked_for(dockerfile: Dockerfile) -> None:
    checked = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["python_version"]
    found = re.fullmatch(PINNED, dockerfile.arguments["BASE"])
    assert found is not None
    assert found[1] == checked


def test_the_default_is_the_gpu_image(dockerfile: Dockerfile) -> None:
    assert list(dockerfile.stages)[-1] == "gpu"


@pytest.mark.parametrize("target", TARGETS)
def test_it_runs_as_a_user_without_rights(dockerfile: Dockerfile, target: str) -> None:
    assert dockerfile.list_instructions(target, "USER")[-1].value == "10001:10001"
    created = " ".join(step.value for step in dockerfile.list_instructions(target, "RUN"))
    assert "groupadd --gid 10001 pawfect" in created
    assert "useradd --uid 10001 --gid pawfect" in created


@pytest.mark.parametrize("target", TARGETS)
def test_kuberays_probes_find_their_tools_and_nothing_is_left_to_build_with(
    dockerfile: Dockerfile, target: str
) -> None:
    runs = [step.value for step in dockerfile.list_instructions(target, "RUN")]
    installed = {word for run in runs for word in re.findall(r"[a-z0-9-]+", run.partition("apt-get install")[2])}
    assert {"bash", "wget", "grep", "tini", "ca-certificates"} <= installed
    assert not any(re.search("gcc|build-essential|make|-dev|curl|git", run) for run in runs)
    assert not any(re.search(r"\bpip\b", run) for run in runs)  # libraries come from stages that are thrown away


@pytest.mark.parametrize("target", TARGETS)
def test_a_pods_args_run_under_the_init_and_its_command_replaces_all(dockerfile: Dockerfile, target: str) -> None:
    # In JSON: the other form is given to a shell, which leaves a pod's args out.
    assert dockerfile.list_instructions(target, "ENTRYPOINT")[-1].value == '["tini", "--"]'
    assert dockerfile.list_instructions(target, "CMD")[-1].value == '["pawfect", "serve"]'
    assert read_environment(dockerfile, target)["PATH"].split(":")[0] in ("/opt/venv/bin", "$PATH")
    assert dockerfile.list_instructions(target, "WORKDIR")[-1].value == "/app"


def test_nothing_is_named_like_a_secret(dockerfile: Dockerfile) -> None:
    steps = [step for stage in dockerfile.stages.values() for step in stage.instructions]
    names = {name for step in steps if step.name in ("ARG", "ENV") for name in step.pairs}
    assert not [name for name in {*names, *dockerfile.arguments} if SECRET.search(name)]
    assert not [step.value for step in steps if step.name == "RUN" and "--mount" in step.value]
    assert {name for step in steps if step.name == "ARG" for name in step.pairs} == {"VERSION"}


@pytest.mark.parametrize("target", TARGETS)
def test_the_version_is_in_the_environment_and_on_the_label(dockerfile: Dockerfile, target: str) -> None:
    labels = {
        name: value
        for step in dockerfile.list_instructions(target, "LABEL")
        for name, value in step.pairs.items()
    }  # fmt: skip
    assert read_environment(dockerfile, target)["PAWFECT_VERSION"] == "$VERSION"
    assert labels["org.opencontainers.image.revision"] == "$VERSION"


def test_both_images_end_alike(dockerfile: Dockerfile) -> None:
    cpu, gpu = (dockerfile.stages[name].instructions for name in TARGETS)
    assert [step for step in cpu if step.name != "LABEL"] == [step for step in gpu if step.name != "LABEL"]


def test_torch_is_in_the_gpu_image_alone_and_above_what_both_share(dockerfile: Dockerfile) -> None:
    assert "flux-libraries" not in dockerfile.find_needed("cpu")
    assert "flux-libraries" in dockerfile.find_needed("gpu")
    assert [stage.name for stage in dockerfile.find_ancestry("gpu")] == ["runtime", "cpu-runtime", "gpu-runtime", "gpu"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_change_of_code_changes_no_layer_of_libraries(dockerfile: Dockerfile, target: str) -> None:
    copies = [(step.source_stage, step.paths) for step in dockerfile.list_instructions(target, "COPY")]
    assert [source for source, _ in copies[-2:]] == ["project", "project"]
    for source, _ in copies[:-2]:
        assert source is not None
        read = [
            path
            for step in dockerfile.list_instructions(source, "COPY")
            if step.source_stage is None
            for path in step.paths[:-1]
        ]
        assert read == ["constraints.txt"]  # and two lists out of pyproject.toml


@pytest.mark.parametrize("target", TARGETS)
def test_code_and_libraries_belong_to_root(dockerfile: Dockerfile, target: str) -> None:
    assert not [step for step in dockerfile.list_instructions(target, "COPY") if "--chown" in step.value]
    # Some builders let a folder that WORKDIR makes belong to the user, wherever USER stands.
    assert "install --directory /app " in dockerfile.list_instructions(target, "RUN")[0].value
    assert not [step for step in dockerfile.list_instructions(target, "RUN") if "chown " in step.value]


def test_compiled_code_is_for_the_same_processor_as_where_it_runs(dockerfile: Dockerfile) -> None:
    for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"):
        built = read_environment(dockerfile, "cpu-libraries")[name]
        assert {read_environment(dockerfile, target)[name] for target in TARGETS} == {built}


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_written_lies_where_may_be_written(
    dockerfile: Dockerfile, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = read_environment(dockerfile, target)
    for name, value in environment.items():
        if name != "PAWFECT_VERSION":
            monkeypatch.setenv(name, value)
    settings = Settings(_env_file=None)
    assert settings.data_dir == Path("/data")
    assert settings.engines.weights_dir == Path("/weights/embedded")
    assert settings.flux.prompt_dir.is_relative_to("/cache")
    for name in ("HOME", "XDG_CACHE_HOME", "HF_HOME"):
        assert Path(environment[name]).is_relative_to("/cache")


@pytest.mark.parametrize("target", TARGETS)
def test_no_library_tells_its_makers_of_the_service(dockerfile: Dockerfile, target: str) -> None:
    environment = read_environment(dockerfile, target)
    assert environment["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.mark.parametrize("target", TARGETS)
def test_the_health_check_asks_the_proxy(dockerfile: Dockerfile, target: str) -> None:
    asked = dockerfile.list_instructions(target, "HEALTHCHECK")[-1].value
    assert "/-/healthz" in asked
    assert "${PAWFECT_PORT:-8000}" in asked


def test_the_gpu_image_finds_the_driver_where_gke_mounts_it(dockerfile: Dockerfile) -> None:
    environment = read_environment(dockerfile, "gpu")
    assert environment["LD_LIBRARY_PATH"] == "/usr/local/nvidia/lib64"
    assert environment["PATH"].endswith(":/usr/local/nvidia/bin")
    assert "LD_LIBRARY_PATH" not in read_environment(dockerfile, "cpu")
