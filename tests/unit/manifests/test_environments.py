"""What a container finds in its environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from manifests.builds import Build
from manifests.environments import UNKNOWN, load_settings, read_environment
from serve_app.errors import ConfigurationError

MAPS = tuple(
    {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
    for name, data in {"first": {"A": "1", "B": "1"}, "second": {"B": "2", "C": "2"}, "other": {"D": "3"}}.items()
)


def test_later_maps_win_and_the_containers_own_variables_win_over_maps() -> None:
    container = {
        "envFrom": [
            {"configMapRef": {"name": "first"}},
            {"configMapRef": {"name": "second"}},
            {"configMapRef": {"name": "other"}, "prefix": "X_"},
        ],
        "env": [
            {"name": "C", "value": "own"},
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        ],
    }
    environment = read_environment(Build(Path(), MAPS), container)
    assert environment == {"A": "1", "B": "2", "C": "own", "X_D": "3", "KEY": UNKNOWN}


def test_settings_are_of_the_container_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PAWFECT_LOG_LEVEL", "DEBUG")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("PAWFECT_PORT=9000\n")
    settings = load_settings({"PAWFECT_METRICS_PORT": "8081"})
    assert (settings.log_level, settings.port, settings.metrics_port) == ("INFO", 8000, 8081)
    assert os.environ["PAWFECT_LOG_LEVEL"] == "DEBUG"
    assert "PAWFECT_METRICS_PORT" not in os.environ
    assert Path.cwd() == tmp_path


def test_what_is_no_setting_is_refused_and_our_own_environment_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAWFECT_LOG_LEVEL", "DEBUG")
    with pytest.raises(ConfigurationError, match="PAWFECT_PROT is not a setting"):
        load_settings({"PAWFECT_PROT": "1"})
    assert os.environ["PAWFECT_LOG_LEVEL"] == "DEBUG"
