"""Building an overlay, and the command that checks it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from manifests import __main__ as command
from manifests.builds import build, read_documents
from manifests.pages import ROOT
from manifests.schemas import Schemas
from serve_app.errors import ConfigurationError
from tests.unit.manifests.conftest import CRDS


def _write(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "kustomization.yaml").write_text("resources: [one.yaml]\n")
    (folder / "one.yaml").write_text(text)
    return folder


def test_without_kubectl_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="kubectl is not in PATH"):
        build(ROOT / "k8s")


def test_a_folder_that_does_not_build_is_told(kubectl: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"does not build: .*kustomization"):
        build(tmp_path)


@pytest.mark.parametrize("text", ["a: [", "- one", "kind: Leash\napiVersion: v1\n"])
def test_what_is_no_kubernetes_object_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        read_documents(text)


def test_the_command_prints_each_problem_and_fails(
    kubectl: None, schemas: Schemas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: leash}\ndata: {TODO_X: todo}\nbinaryDatas: {}\n"
    folder = _write(tmp_path / "ours", text)
    monkeypatch.setattr("sys.argv", ["manifests", "--crds", str(CRDS), str(folder)])
    assert command.main() == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "ours: ConfigMap/leash: .: Additional properties are not allowed ('binaryDatas' was unexpected). [schema]",
        "ours: ConfigMap/leash: data.TODO_X: 'todo' stands for something that was never filled in. [placeholders]",
    ]
    (folder / "one.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: leash}\ndata: {COLOR: red}\n")
    assert command.main() == 0
    assert capsys.readouterr().out == "ours: 1 documents, no problem\n"


def test_an_overlay_that_does_not_build_hides_no_other(
    kubectl: None, schemas: Schemas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _write(tmp_path / "ours", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: leash}\n")
    monkeypatch.setattr("sys.argv", ["manifests", "--crds", str(CRDS), str(tmp_path), str(folder)])
    assert command.main() == 1
    printed = capsys.readouterr()
    assert f"{tmp_path} does not build" in printed.err
    assert printed.out == "ours: 1 documents, no problem\n"


def test_the_command_says_what_it_misses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["manifests", "--crds", str(tmp_path)])
    assert command.main() == 1
    assert "has no custom resource definition" in capsys.readouterr().err


def test_every_overlay_is_checked(kubectl: None) -> None:
    assert {path.name for path in command.find_overlays()} == {"gke-l4", "local-cpu"}
    assert shutil.which("kubectl")
