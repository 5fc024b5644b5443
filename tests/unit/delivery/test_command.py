"""The command line: images, usage, and who asks; the builder is one that writes down what it was told."""

from __future__ import annotations

from pathlib import Path

import pytest

from delivery import __main__ as command
from delivery.credentials import find_token
from delivery.errors import DeliveryError
from delivery.images import is_in_registry, split_reference
from delivery.project import check_values
from delivery.revisions import resolve
from tests.unit.delivery.conftest import IMAGE, Clone, git, put_program

DOCKER = """#!/bin/sh
echo "$*" >> "$REGISTRY.docker"
case "$*" in
  *inspect*) echo '["other/name@sha256:aa","'"${5%:*}"'@sha256:bb"]' ;;
  *) while [ $# -gt 0 ]; do test "$1" = --iidfile && echo sha256:id > "$2"; shift; done ;;
esac
exit 0
"""


@pytest.fixture
def docker(clone: Clone, programs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What docker was told."""
    put_program(programs, "docker", DOCKER)
    monkeypatch.setattr(command, "ROOT", clone.root)
    return Path(f"{clone.registry}.docker")


def test_an_image_is_named_after_its_commit_and_release(
    clone: Clone, docker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    git(clone.root, "tag", "v1.2.3")
    git(clone.root, "tag", "nightly")
    assert command.main(["build", "--push"]) == 0
    out = capsys.readouterr().out
    assert f"{IMAGE}:{clone.new}  digest sha256:bb" in out
    assert f"{IMAGE}:v1.2.3  digest sha256:bb" in out
    told = docker.read_text()
    assert f"--build-arg VERSION={clone.new}" in told
    assert "--target gpu" in told
    assert "nightly" not in told
    assert f"push {IMAGE}:v1.2.3" in told


def test_an_image_for_cpus_that_stays_here(clone: Clone, docker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["build", "--target", "cpu", "--tag", "try"]) == 0
    assert f"{IMAGE}:try-cpu  id sha256:id, not pushed" in capsys.readouterr().out
    assert "push" not in docker.read_text()


def test_uncommitted_files_are_refused_or_said(clone: Clone, docker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (clone.root / "new.txt").write_text("")
    assert command.main(["build"]) == 1
    assert "1 file(s) are not as committed, such as new.txt; commit them" in capsys.readouterr().out
    assert not docker.exists()
    assert command.main(["build", "--allow-dirty"]) == 0
    assert f"{IMAGE}:{clone.new}-dirty" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["fly"], ["build", "--target", "tpu"], ["deploy", "--timeout", "soon"]])
def test_wrong_usage_is_not_mistaken_for_a_broken_cluster(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(words)
    assert ended.value.code == command.USAGE


def test_tags_lead_to_commits(clone: Clone) -> None:
    git(clone.root, "tag", "--annotate", "--message", "one", "v1.0.0", clone.old)
    assert resolve(clone.root, "v1.0.0") == resolve(clone.root, clone.old[:10]) == clone.old
    assert resolve(clone.root, None) == clone.new
    assert resolve(clone.root, f"{clone.new}-dirty") == f"{clone.new}-dirty"
    for wrong in ("v9.9.9", "--exec=x", f"{clone.old}-dirty"):
        with pytest.raises(DeliveryError):
            resolve(clone.root, wrong)


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("host:5000/a/b:v1", ("host:5000/a/b", "v1")),
        ("host:5000/a/b", ("host:5000/a/b", "")),
        ("redis@sha256:ab", ("redis", "sha256:ab")),
        ("redis:7@sha256:ab", ("redis", "sha256:ab")),
    ],
)
def test_references(reference: str, parts: tuple[str, str]) -> None:
    assert split_reference(reference) == parts


def test_the_registry_is_asked(clone: Clone, programs: Path) -> None:
    assert is_in_registry(f"{IMAGE}:{clone.new}") is True
    assert is_in_registry(f"{IMAGE}:none") is False
    put_program(programs, "gcloud", "#!/bin/sh\necho 'You do not currently have an active account' >&2\nexit 1\n")
    put_program(programs, "docker", "#!/bin/sh\necho 'no network' >&2\nexit 1\n")
    assert is_in_registry(f"{IMAGE}:{clone.new}") is None


def test_who_asks(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAWFECT_TOKEN", raising=False)
    assert find_token("http://127.0.0.1:8000", "x", None) is None
    token = find_token("https://pets.acme.dev", "https://pets.acme.dev/", "deploy@pets")
    assert token == (
        "token-of-gcloud auth print-identity-token --quiet --audiences=https://pets.acme.dev/ "
        "--impersonate-service-account=deploy@pets --include-email"
    )
    put_program(programs, "gcloud", "#!/bin/sh\necho 'Invalid account type' >&2\nexit 1\n")
    with pytest.raises(DeliveryError, match=r"Invalid account type.*--account"):
        find_token("https://pets.acme.dev", "x", None)
    monkeypatch.setenv("PAWFECT_TOKEN", "pk_1")
    assert find_token("https://pets.acme.dev", "x", None) == "pk_1"


@pytest.mark.parametrize(
    "value", ["", "<project>", "my-project", "pets.example.com", "PROJECT_ID-weights", "CHANGE_ME"]
)
def test_placeholders(value: str) -> None:
    filled = {"PROJECT_ID": "pets-1234", "REGION": "us-east4", "HOSTNAME": "pets.acme.dev", "IMAGE": "a/b"}
    check_values(filled, Path("project.env"))
    with pytest.raises(DeliveryError, match="still has placeholders: OTHER="):
        check_values({**filled, "OTHER": value}, Path("project.env"))
    with pytest.raises(DeliveryError, match="has no IMAGE"):
        check_values({key: value for key, value in filled.items() if key != "IMAGE"}, Path("project.env"))
