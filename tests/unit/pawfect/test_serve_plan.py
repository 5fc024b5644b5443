"""serve_config.yaml as this machine deploys it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from capacity.photos import find_seconds
from pawfect import server
from pawfect.serve_plan import CONFIG, count_cpus, read_plan
from serve_app.errors import ConfigurationError
from serve_app.settings import Settings, load_settings
from serve_app.settings_sections import FluxSettings

HOST = "127.0.0.1"
LONGEST_TFLOP = 2100
"""28 steps at a megapixel, the largest crop."""
UPLOAD_S = 20
"""What has begun to be written when the drain's time is over is written to its end: some megabytes."""
LOCAL_POD = CONFIG.parent / "k8s" / "overlays" / "local-cpu" / "pawfect.yaml"


def read(settings: Settings, path: Path = CONFIG) -> dict[str, Any]:
    plan: dict[str, Any] = read_plan(path, settings, HOST).model_dump(exclude_unset=True)
    return plan


def find(plan: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in plan["applications"][0]["deployments"] if each["name"] == name)


def test_the_settings_of_this_start_are_the_arguments_without_secrets(tmp_path: Path) -> None:
    settings = Settings(port=1234, data_dir=tmp_path, hf_token=SecretStr("hf_canary"), quality="low")
    plan = read(settings)
    assert plan["http_options"]["port"] == 1234
    arguments = plan["applications"][0]["args"]
    assert "hf_canary" not in str(plan)
    assert load_settings(**arguments) == settings.without_secrets(), "what is built elsewhere is built of the same"


def test_flux_on_a_cpu_asks_for_no_gpu() -> None:
    wanted = find(read(Settings()), "FluxFill")["ray_actor_options"]
    assert (wanted["num_gpus"], wanted["accelerator_type"]) == (0.75, "L4")
    on_cpu = find(read(Settings(flux=FluxSettings(device="cpu"))), "FluxFill")["ray_actor_options"]
    assert on_cpu == {"num_cpus": 1}


def test_cpus_are_counted_for_all_replicas_that_may_run(tmp_path: Path) -> None:
    content = yaml.safe_load(CONFIG.read_text())
    for name, most in {"Editor": 4, "Headshots": 2, "FluxFill": 4, "PromptEncoder": 1}.items():
        find(content, name)["autoscaling_config"]["max_replicas"] = most
    path = tmp_path / "serve_config.yaml"
    path.write_text(yaml.safe_dump(content))
    without = count_cpus(read_plan(path, Settings(), HOST), Settings())
    flux = Settings(flux=FluxSettings(checkpoints={"flux-fill-dev": "x"}))
    # Four Editors at a half, Ingress, Draft, two Headshots; with FLUX four more, and the prompt encoder.
    assert without == 6
    assert count_cpus(read_plan(path, flux, HOST), flux) == 11


def change(path: Path, **application: Any) -> Path:
    content = yaml.safe_load(CONFIG.read_text())
    content["applications"][0].update(application)
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize(
    "application",
    [
        {"import_path": 3},
        {"deployments": [{"name": "Ingress", "num_replicas": "many"}]},
        {
            "autoscaling_policy": {
                "policy_function": "x:y",
                "policy_kwargs": {"deployments": {"A": {"wait": 1}}, "lanes": {}},
            }
        },
        {"autoscaling_policy": {"policy_function": "x:y", "policy_kwargs": {"deployments": {}, "lanes": {"fast": []}}}},
    ],
)
def test_a_file_that_serve_would_not_take_is_refused_before_anything_starts(
    tmp_path: Path, application: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError, match="not a usable Serve config"):
        read(Settings(), change(tmp_path / "config.yaml", **application))


@pytest.mark.parametrize("name", ["Editor", "FluxFill", "PromptEncoder"])
def test_a_fixed_number_that_would_scale_nothing_is_refused(tmp_path: Path, name: str) -> None:
    deployments = yaml.safe_load(CONFIG.read_text())["applications"][0]["deployments"]
    fixed = next(each for each in deployments if each["name"] == name)
    del fixed["autoscaling_config"]
    fixed["num_replicas"] = 2
    with pytest.raises(ConfigurationError, match=f"{name} needs an autoscaling_config"):
        read(Settings(), change(tmp_path / "config.yaml", deployments=deployments))


@pytest.mark.parametrize(
    ("name", "user_config", "words"),
    [
        ("Editor", {"quality": "best"}, "Editor: user_config: quality 'best'"),
        ("Ingress", {"qualitys": {}}, "Ingress: user_config qualitys"),
        ("FluxFill", {"checkpoint": 3}, "FluxFill: user_config checkpoint"),
    ],
)
def test_a_user_config_that_replicas_would_refuse_reaches_none(
    tmp_path: Path, name: str, user_config: dict[str, Any], words: str
) -> None:
    deployments = yaml.safe_load(CONFIG.read_text())["applications"][0]["deployments"]
    next(each for each in deployments if each["name"] == name)["user_config"] = user_config
    with pytest.raises(ConfigurationError, match=words):
        read(Settings(), change(tmp_path / "config.yaml", deployments=deployments))


def test_a_file_without_an_application_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("applications: []")
    with pytest.raises(ConfigurationError, match="not a usable Serve config"):
        read(Settings(), tmp_path / "config.yaml")


def test_the_times_of_an_end_fit_into_each_other() -> None:
    plan, settings = read(Settings()), Settings()
    times = {each["name"]: each["graceful_shutdown_timeout_s"] for each in plan["applications"][0]["deployments"]}
    longest_s = settings.flux.places * find_seconds(LONGEST_TFLOP).high
    assert longest_s < settings.jobs.drain_s, "the slowest photo ends, beside as many others as a replica takes"
    assert settings.jobs.drain_s + UPLOAD_S <= times["Editor"] < times["Ingress"]
    assert times["FluxFill"] >= settings.jobs.drain_s, "an Editor that lets a job finish needs the engine for it"
    assert times["FluxBase"] >= settings.jobs.drain_s
    assert max(times.values()) < server.DRAIN_S, "all end at once; for pods, drain-replicas of `python -m manifests`"
    pod = next(each for each in yaml.safe_load_all(LOCAL_POD.read_text()) if each["kind"] == "Deployment")
    assert pod["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > server.DRAIN_S
    assert plan["http_options"]["request_timeout_s"] > settings.jobs.push_wait_s
    assert settings.engines.load_timeout_s >= 600
