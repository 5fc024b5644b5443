"""The command line: images, usage, and who asks; the builder is one that writes down what it was told."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest

from delivery import __main__ as command
from delivery.arguments import USAGE
from delivery.check import Check
from delivery.cluster import name_owners
from delivery.credentials import find_token
from delivery.errors import DeliveryError, Unverified
from delivery.images import is_in_registry, split_reference
from delivery.project import check_values, read_values
from delivery.revisions import resolve
from delivery.rollout import Patience
from tests.unit.delivery.conftest import ENV, IMAGE, ROOT, VALUES, Clone, git, put_program
from tests.unit.delivery.kubernetes import FakeCluster
from tests.unit.delivery.service import FakeService, Serving

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
    assert "--platform linux/amd64" in told, "or an Apple's machine builds for itself"
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
    assert ended.value.code == USAGE


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
    with pytest.raises(DeliveryError, match=r"nobody to speak to .*--account"):
        find_token("https://pets.acme.dev", "x", None)
    monkeypatch.setenv("PAWFECT_TOKEN", "pk_1")
    assert find_token("https://pets.acme.dev", "x", None) == "pk_1"


COUNTING = """#!/bin/sh
test "$1" = artifacts && exit 0
echo "$*" >> "$REGISTRY.gcloud"
n=$(wc -l < "$REGISTRY.gcloud")
echo "token-$n"
exit 0 # tokens
"""
DENIED = """#!/bin/sh
test "$1" = artifacts && exit 0
echo "ERROR: PERMISSION_DENIED: Permission 'iam.serviceAccounts.getOpenIdToken' denied on resource" >&2
exit 1
"""
ACCOUNT = "pawfect-deploy@pets-1234.iam.gserviceaccount.com"


@pytest.fixture
def here(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> Clone:
    """Where the command works, with nobody's token."""
    monkeypatch.setattr(command, "ROOT", clone.root)
    monkeypatch.setattr(command, "Patience", partial(Patience, poll_s=0.01))
    monkeypatch.delenv("PAWFECT_TOKEN", raising=False)
    return clone


@pytest.mark.parametrize("words", [["deploy"], ["rollback", "--tag", "v0.9.0"]])
def test_who_may_not_verify_hears_of_it_before_anything_is_changed(
    here: Clone, cluster: FakeCluster, programs: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    put_program(programs, "gcloud", DENIED)
    git(here.root, "tag", "v0.9.0", here.old)
    assert command.main(words) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"Nothing was changed. gcloud gives no identity token of {ACCOUNT}, to ask ")
    assert "needs roles/iam.serviceAccountTokenCreator on that account (Terraform's variable `deployers`)" in out
    assert "getOpenIdToken" in out
    assert cluster.applied == []
    assert command.main([*words, "--no-verify"]) == 0
    assert capsys.readouterr().out.endswith(" serves; it was not verified\n")


def test_a_token_is_fetched_anew_for_the_verification(
    here: Clone, cluster: FakeCluster, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollout may take longer than the hour that a token lives."""
    put_program(programs, "gcloud", COUNTING)
    service = FakeService(jobs=[here.new])
    monkeypatch.setattr("delivery.credentials.LOOPBACK", frozenset[str]())
    monkeypatch.setattr("tests.unit.delivery.service.NEW", here.new)
    with Serving(service) as serving:
        assert command.main(["deploy", "--url", serving.url]) == 0
    assert service.tokens == ["Bearer token-2"]
    assert f"--impersonate-service-account={ACCOUNT}" in Path(f"{here.registry}.gcloud").read_text()


def test_a_token_that_cannot_be_had_again_says_nothing_of_the_version(
    here: Clone, cluster: FakeCluster, programs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_program(programs, "gcloud", COUNTING.replace("token-$n", "token").replace("exit 0 # tokens", "test $n = 1"))
    assert command.main(["deploy"]) == 3
    assert "NOT VERIFIED: not edited: gcloud gives no identity token" in capsys.readouterr().out
    assert here.new in str(cluster.objects["rayservices", "pawfect"]["spec"])


def test_without_an_engine_the_status_says_so(here: Clone, capsys: pytest.CaptureFixture[str]) -> None:
    def wait(_check: Check, _say: object) -> NoReturn:
        raise Unverified("not edited: no engine yet.")

    with pytest.MonkeyPatch.context() as patch, Serving(FakeService()) as serving:
        patch.setattr(command, "verify", wait)
        assert command.main(["verify", "--edit", "--url", serving.url]) == 3
    assert "not edited: no engine yet." in capsys.readouterr().out


def test_a_pause_is_said_and_is_no_failure(here: Clone, capsys: pytest.CaptureFixture[str]) -> None:
    async def skip(_check: Check, _say: object) -> str:
        return "not edited: consumption is paused by an operator (x)"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "verify", skip)
        assert command.main(["verify", "--edit", "--url", "http://localhost:1"]) == 0
    assert capsys.readouterr().out.endswith("not edited: consumption is paused by an operator (x)\n")


def test_a_way_back_takes_fields_over(here: Clone, cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["deploy", "--tag", here.old, "--no-verify"]) == 0
    assert command.main(["deploy", "--no-verify"]) == 0
    cluster.foreign["rayservices", "pawfect"] = {("spec", "serveConfigV2"): "by hand"}
    assert command.main(["deploy", "--no-verify"]) == 1
    assert "kubectl-edit has .spec.serveConfigV2." in capsys.readouterr().out
    assert command.main(["rollback", "--no-verify"]) == 0
    out = capsys.readouterr().out
    assert "taken over: kubectl-edit has .spec.serveConfigV2\n" in out
    assert f"{IMAGE}:{here.old} serves" in out


@pytest.mark.parametrize(
    ("told", "owners"),
    [
        (
            'error: Apply failed with 1 conflict: conflict with "kubectl-edit" using v1 at 2026-11-20T10:00:00Z: '
            ".spec.serveConfigV2 Please review the fields above--they currently have other managers. Here are the ways",
            "kubectl-edit has .spec.serveConfigV2",
        ),
        (
            'error: Apply failed with 3 conflicts: conflicts with "kubectl-edit" using ray.io/v1: - .spec.a - .spec.b['
            'name="x"].c conflict with "hpa" with subresource "scale": .spec.replicas Please review it. See ./docs',
            'kubectl-edit has .spec.a, .spec.b[name="x"].c; hpa has .spec.replicas',
        ),
        ("Operation cannot be fulfilled: conflict", "Operation cannot be fulfilled: conflict"),
    ],
)
def test_whose_fields(told: str, owners: str) -> None:
    assert name_owners(told) == owners


FILLED = {"PROJECT_ID": "pets-1234", "REGION": "us-east4", "HOSTNAME": "pets.acme.dev", "IMAGE": "a/b"}
PLACEHOLDERS = [
    "", "<project>", "my-project", "pets.example.com", "https://a.example.org/", "TODO", "a@my-project.iam.test",
    "us-docker.pkg.dev/my-project/pawfect/pawfect", "my-project-pawfect-weights",
]  # fmt: skip
NAMES = [
    "todo-prod", "my-projects-1", "my-project-1", "acme-replace-prod", "changeme-pets", "your-pets", "example-pets",
    "myexample.com", "pets.example.com.br", "us-docker.pkg.dev/acme/todo/x", "REGION", "not-my-project",
]  # fmt: skip


@pytest.mark.parametrize("value", PLACEHOLDERS)
def test_placeholders(value: str) -> None:
    with pytest.raises(DeliveryError, match="still has placeholders: OTHER="):
        check_values({**FILLED, "OTHER": value}, Path("project.env"))


@pytest.mark.parametrize("value", NAMES)
def test_names_that_look_like_placeholders(value: str) -> None:
    check_values({**FILLED, "OTHER": value}, Path("project.env"))


def test_what_is_missing() -> None:
    with pytest.raises(DeliveryError, match="has no IMAGE"):
        check_values({key: value for key, value in FILLED.items() if key != "IMAGE"}, Path("project.env"))


def is_placeholder(value: str) -> bool:
    try:
        check_values({**FILLED, "OTHER": value}, Path("project.env"))
    except DeliveryError:
        return True
    return False


def test_the_committed_file_is_filled_in_wholly_or_not_at_all() -> None:
    values = read_values(ROOT / ENV)
    kept = {key for key, value in values.items() if not is_placeholder(value)}
    assert kept in ({"REGION", "STATIC_ADDRESS", "CERTIFICATE_MAP"}, set(values))


def test_the_clones_file_has_the_keys_of_the_committed_one() -> None:
    assert list(VALUES) == list(read_values(ROOT / ENV))
