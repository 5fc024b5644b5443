"""A cluster's differences in serve_config.yaml, and the files that are made of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from manifests import __main__ as command
from manifests.pages import PATCH, ROOT, find_stale, make_pages
from manifests.serve_config import find_unknown_keys, merge_config
from serve_app.errors import ConfigurationError

CONFIG = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
OVERRIDES = {
    "proxy_location": "EveryNode",
    "http_options": {"host": "10.0.0.1"},
    "application": {"autoscaling_policy": {"policy_kwargs": {"deployments": {"FluxBase": {"places": 8}}}}},
    "deployments": {"Ingress": {"num_replicas": 2}, "FluxFill": {"autoscaling_config": {"max_replicas": 8}}},
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What the generator reads, with an overlay of our own."""
    shutil.copy(ROOT / "serve_config.yaml", tmp_path)
    shutil.copytree(ROOT / "k8s" / "alerts", tmp_path / "k8s" / "alerts")
    overlay = tmp_path / "k8s" / "overlays" / "ours"
    overlay.mkdir(parents=True)
    (overlay / "serve_overrides.yaml").write_text(yaml.safe_dump(OVERRIDES))
    return tmp_path


def _find(config: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in config["applications"][0]["deployments"] if each["name"] == name)


def test_overrides_win_and_what_lies_beside_them_stays() -> None:
    merged = merge_config(CONFIG, OVERRIDES)
    assert merged["proxy_location"] == "EveryNode"
    assert merged["http_options"] == {**CONFIG["http_options"], "host": "10.0.0.1"}
    assert _find(merged, "Ingress") == {**_find(CONFIG, "Ingress"), "num_replicas": 2}
    scaling = _find(CONFIG, "FluxFill")["autoscaling_config"]
    assert _find(merged, "FluxFill")["autoscaling_config"] == {**scaling, "max_replicas": 8}
    policy, before = (
        plan["applications"][0]["autoscaling_policy"]["policy_kwargs"]["deployments"] for plan in (merged, CONFIG)
    )
    assert policy["FluxBase"] == {**before["FluxBase"], "places": 8}
    assert _find(merged, "Editor") == _find(CONFIG, "Editor")


def test_the_config_itself_is_left_as_it_is() -> None:
    before = yaml.safe_dump(CONFIG)
    merge_config(CONFIG, OVERRIDES)
    assert yaml.safe_dump(CONFIG) == before


def test_the_order_is_the_configs() -> None:
    merged = merge_config(CONFIG, OVERRIDES)
    assert list(merged) == list(CONFIG)
    assert list(_find(merged, "FluxFill")) == list(_find(CONFIG, "FluxFill"))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"deployments": {"Editr": {}}}, "Deployment 'Editr' is not in the config; it has Ingress, Editor"),
        ({"proxylocation": "EveryNode"}, "proxylocation is no key of Serve's. Did you mean proxy_location?"),
        ({"http_options": {"hosts": "x"}}, "http_options.hosts is no key of Serve's. Did you mean host?"),
        ({"application": {"routeprefix": "/x"}}, "application.routeprefix is no key"),
        ({"deployments": {"Editor": {"num_replica": 2}}}, "deployments.Editor.num_replica is no key"),
        (
            {"deployments": {"Editor": {"autoscaling_config": {"max_replica": 2}}}},
            "deployments.Editor.autoscaling_config.max_replica is no key",
        ),
        (
            {"deployments": {"Editor": {"ray_actor_options": {"num_cpu": 2}}}},
            "deployments.Editor.ray_actor_options.num_cpu is no key",
        ),
        ({"applications": []}, "Overrides have no 'applications'"),
    ],
)
def test_unknown_names_are_refused(overrides: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        merge_config(CONFIG, overrides)
    assert told in caught.value.message


def test_serve_knows_every_key_of_our_config() -> None:
    assert list(find_unknown_keys(CONFIG)) == []


def test_what_is_written_is_the_merged_config_and_the_rules(tree: Path) -> None:
    pages = {path.name: text for path, text in make_pages(tree).items()}
    service = yaml.safe_load(pages[PATCH])
    assert (service["kind"], service["metadata"]) == ("RayService", {"name": "pawfect"})
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == merge_config(CONFIG, OVERRIDES)
    assert "  serveConfigV2: |\n    proxy_location: EveryNode\n" in pages[PATCH]
    rules = yaml.safe_load(pages["rules.yaml"])
    alerts = yaml.safe_load((ROOT / "k8s/alerts/pawfect.rules.yaml").read_text())
    assert (rules["apiVersion"], rules["kind"]) == ("monitoring.googleapis.com/v1", "Rules")
    written, ours = (
        [rule for group in each for rule in group["rules"]] for each in (rules["spec"]["groups"], alerts["groups"])
    )
    assert [rule.get("alert") for rule in ours if rule not in written] == ["PawfectPubSubWaits"]
    assert [rule for rule in ours if rule in written] == written
    assert [group["name"] for group in rules["spec"]["groups"]] == [group["name"] for group in alerts["groups"]]


def test_the_sentence_names_the_file(tree: Path) -> None:
    (tree / "k8s/overlays/ours/serve_overrides.yaml").write_text("deployments: {Nobody: {}}")
    with pytest.raises(ConfigurationError, match=r"ours/serve_overrides.yaml: Deployment 'Nobody'"):
        make_pages(tree)


@pytest.mark.parametrize("text", ["deployments: [", None])
def test_a_file_that_cannot_be_read_is_told(tree: Path, text: str | None) -> None:
    config = tree / "serve_config.yaml"
    config.unlink()
    if text is not None:
        config.write_text(text)
    with pytest.raises(ConfigurationError, match=r"serve_config.yaml cannot be read"):
        make_pages(tree)


def test_overrides_are_for_one_application() -> None:
    with pytest.raises(ConfigurationError, match="the config has 2"):
        merge_config({"applications": [*CONFIG["applications"], *CONFIG["applications"]]}, {})


def test_a_stale_file_is_found(tree: Path) -> None:
    pages = make_pages(tree)
    assert find_stale(pages) == list(pages)
    for path, text in pages.items():
        path.write_text(text)
    assert find_stale(make_pages(tree)) == []
    config = tree / "serve_config.yaml"
    config.write_text(config.read_text().replace("request_timeout_s: 600", "request_timeout_s: 601"))
    assert [path.name for path in find_stale(make_pages(tree))] == [PATCH]


@pytest.mark.parametrize("arguments", [["--check"], []])
def test_the_command_says_what_is_stale_or_writes_it(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.setattr(command, "ROOT", tree)
    monkeypatch.setattr(command, "make_pages", lambda: make_pages(tree))
    monkeypatch.setattr("sys.argv", ["manifests", *arguments])
    assert command.main() == (1 if arguments else 0)
    printed = capsys.readouterr().out
    assert ("k8s/overlays/ours/serve_config.patch.yaml is not what" in printed) == bool(arguments)
    assert bool(find_stale(make_pages(tree))) == bool(arguments)


def test_our_own_files_are_up_to_date() -> None:
    assert [path.name for path in find_stale(make_pages())] == []
