"""docs/operations.md: its tables are those of the code, and what it names is there."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import capacity.__main__
from capacity.pages import PAGE, fill
from pawfect.command import _parse

ROOT = PAGE.parent.parent
TEXT = PAGE.read_text()
CODE = re.findall(r"```sh\n(.*?)```", TEXT, re.S) + re.findall(
    r"`([^`\n]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.S)
)
"""Everything on the page that is set as code."""


def find(pattern: str) -> set[str]:
    return {found for code in CODE for found in re.findall(pattern, code, re.M)}


def test_the_tables_are_fresh() -> None:
    assert fill(TEXT) == TEXT, "run make docs"


def test_a_table_that_was_changed_by_hand_is_written_anew() -> None:
    changed = TEXT.replace("| `high`, median | 953 |", "| `high`, median | 1 |")
    assert changed != TEXT
    assert fill(changed) == TEXT


@pytest.mark.parametrize("page", ["", TEXT + TEXT])
def test_a_page_without_one_place_for_each_table_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="one place"):
        fill(page)


def test_every_target_of_make_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.M))
    asked = find(r"\bmake ([a-z][a-z0-9-]*)")
    assert asked > {"build", "deploy", "verify", "rollback", "k8s-check", "replay"}
    assert asked <= targets


def list_commands() -> Iterator[list[str]]:
    """Whole command lines of pawfect, up to what ends them, with a value for each placeholder."""
    for line in find(r"(?:^|in_pod )pawfect ((?:pause|resume|scale|controls|forget)[^`#;|\n]*)"):
        words = re.findall(r"'[^']*'|\"[^\"]*\"|\S+", line)
        yield [word.strip("'\"") for word in words]


def test_every_command_of_pawfect_is_understood() -> None:
    commands = list(list_commands())
    assert {words[0] for words in commands} >= {"pause", "resume", "scale", "forget"}
    for words in commands:
        _parse(words)


def test_every_module_is_there() -> None:
    modules = find(r"python -m ([a-z_.]+[a-z_])")
    assert {"pawfect.replay", "pawfect.keys", "delivery", "capacity"} <= modules
    assert not {name for name in modules if importlib.util.find_spec(name) is None}


def test_every_path_is_there() -> None:
    roots = "infra|k8s|docs|serve_app|bench|capacity|pawfect|delivery|\\.github"
    paths = find(rf"(?:^|[\s=(])((?:{roots})/[\w./-]*)") | find(r"\b(cloudbuild\.yaml|serve_config\.yaml)\b")
    made = {"infra/terraform.tfvars"}  # by whoever follows the page
    assert "k8s/overlays/gke-l4/serve_overrides.yaml" in paths
    assert not {path for path in paths - made if not (ROOT / path).exists()}


def test_every_setting_is_one() -> None:
    known = set(re.findall(r"^#? ?(\w+)=", (ROOT / ".env.example").read_text(), re.M))
    names = find(r"\b(PAWFECT_[A-Z_]*[A-Z])\b")
    assert names
    assert names <= known


def test_every_alert_is_in_the_rules() -> None:
    rules = (ROOT / "k8s/alerts/pawfect.rules.yaml").read_text()
    names = set(re.findall(r"\b(Pawfect[A-Z]\w+)", TEXT))
    assert names
    assert all(f"alert: {name}" in rules for name in names)


def test_every_link_leads_somewhere() -> None:
    heads = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in re.findall(r"^#+ (.+)$", TEXT, re.M)}
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXT):
        path, _, anchor = target.partition("#")
        if target.startswith("http"):
            continue
        assert not path or (PAGE.parent / path).exists(), target
        assert path or anchor in heads, target


def test_a_stale_page_fails_the_check_and_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "operations.md"
    page.write_text(stale := TEXT.replace("| 953 |", "| 954 |"))
    monkeypatch.setattr(capacity.__main__, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["capacity", "--check"])
    assert capacity.__main__.main() == 1
    assert (page.read_text(), "make docs" in capsys.readouterr().out) == (stale, True)
    monkeypatch.setattr("sys.argv", ["capacity"])
    assert capacity.__main__.main() == 0
    assert page.read_text() == TEXT
