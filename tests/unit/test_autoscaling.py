"""The policy as Serve's controller calls it: with its own context objects, as Ray makes them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID, TimeStampedValue
from ray.serve.autoscaling_policy import _apply_app_level_autoscaling_config
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from pawfect.serve_plan import CONFIG, read_plan
from serve_app.autoscaling import STALE_S, BacklogPolicy, log
from serve_app.jobs.demand import name_key
from serve_app.settings import Settings

NOW = 10_000.0
LANES = {"images": ["FluxFill"]}
POLICY = BacklogPolicy(
    {"FluxFill": {"target_wait_s": 30, "places": 4, "down_after_s": 0, "zero_after_s": 0}, "Headshots": {"places": 2}},
    {"images": ["FluxFill"], "headshots": ["Headshots"]},
)


def make_context(
    name: str, target: int = 0, figures: dict[str, list[float]] | None = None, requests: float = 0, age_s: float = 1
) -> AutoscalingContext:
    """`figures` has a value of each replica by the name of the statistic."""
    own = DeploymentID(name, "pawfect")
    series: dict[str, dict[ReplicaID, list[TimeStampedValue]]] = {
        key: {
            ReplicaID(str(number), own): [
                TimeStampedValue(NOW - 9, -1.0),
                TimeStampedValue(NOW - age_s - number, value),
            ]
            for number, value in enumerate(values)
        }
        for key, values in (figures or {}).items()
    }
    return AutoscalingContext(
        own, name, "pawfect", target, target, [], requests, 0.0, {}, series, 0, 9, {}, None, None, NOW,
        AutoscalingConfig(min_replicas=0, max_replicas=9),
    )  # fmt: skip


def decide(*contexts: AutoscalingContext, policy: BacklogPolicy = POLICY) -> dict[str, Any]:
    decisions, states = policy({context.deployment_id: context for context in contexts})
    assert states.keys() == {context.deployment_id for context in contexts}
    return {key.name: replicas for key, replicas in decisions.items()}


def make_figures(deployment: str = "FluxFill", **values: list[float]) -> dict[str, list[float]]:
    figures = {name_key(kind, deployment): numbers for kind, numbers in values.items()}
    return {**figures, name_key("slots", "images"): [4.0], name_key("slots", "headshots"): [2.0]}


def test_the_backlog_that_editors_speak_of_becomes_replicas() -> None:
    figures = make_figures(jobs=[20.0, 19.0], backlog_s=[90.0, 85.0])
    # Two Editors look at one store: the latest is believed, not the sum.
    assert decide(make_context("FluxFill"), make_context("Editor", 1, figures))["FluxFill"] == 3


@pytest.mark.parametrize("backlogs", [[90.0, 150.0], [150.0, 90.0]])
def test_it_does_not_matter_which_editor_spoke_last(backlogs: list[float]) -> None:
    figures = make_figures(jobs=[20.0, 20.0], backlog_s=backlogs)  # each has measured jobs of its own
    assert decide(make_context("FluxFill"), make_context("Editor", 2, figures))["FluxFill"] == 4


def test_what_each_editor_saw_end_is_added_up() -> None:
    figures = make_figures(jobs=[1.0], backlog_s=[1.0], busy=[1.0, 1.4])
    assert decide(make_context("FluxFill", 3), make_context("Editor", 2, figures))["FluxFill"] == 3


def test_editors_follow_the_engines_that_run() -> None:
    figures = make_figures(jobs=[100.0], backlog_s=[900.0])
    assert decide(make_context("FluxFill", 6), make_context("Editor", 1, figures))["Editor"] == 6
    assert decide(make_context("FluxFill", 0), make_context("Editor", 1, figures))["Editor"] == 1
    few = make_figures(jobs=[4.0], backlog_s=[900.0])
    assert decide(make_context("FluxFill", 6), make_context("Editor", 1, few))["Editor"] == 1


def test_headshots_bring_editors_of_their_own() -> None:
    figures = make_figures("Headshots", jobs=[8.0], backlog_s=[60.0])
    assert decide(make_context("Headshots", 4), make_context("Editor", 1, figures))["Editor"] == 4


def test_silence_changes_nothing() -> None:
    figures = make_figures(jobs=[20.0], backlog_s=[900.0])
    late = make_context("Editor", 2, figures, age_s=STALE_S)
    assert decide(make_context("FluxFill", 3), late) == {}
    assert decide(make_context("FluxFill", 3), make_context("Editor", 0)) == {}
    assert decide(make_context("FluxFill", 3)) == {}


def test_replicas_that_never_came_are_given_up_but_not_those_that_are_changed() -> None:
    patient = BacklogPolicy({"FluxFill": {"down_after_s": 60}}, {"images": ["FluxFill"]})
    figures = make_figures(jobs=[1.0], backlog_s=[1.0])
    editor, stuck = (
        make_context("Editor", 1, figures),
        make_context("Editor", 1, {**figures, "starting:FluxFill": [3.0]}),
    )
    flux = make_context("FluxFill", 4)
    flux.current_num_replicas = 0  # Serve calls one that is reconfigured not running
    assert decide(flux, editor, policy=patient)["FluxFill"] == 4
    assert decide(flux, stuck, policy=patient)["FluxFill"] == 1


def test_a_policy_that_hears_nothing_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    policy = BacklogPolicy({}, {"images": ["FluxFill"]})
    for _ in range(3):
        assert decide(make_context("FluxFill", 1), policy=policy) == {}
    assert [record.message for record in caplog.records if "nothing is scaled" in record.message] != []
    assert len(caplog.records) == 1


def test_a_deployment_of_no_lane_goes_by_its_requests() -> None:
    assert decide(make_context("PromptEncoder", 0, requests=3)) == {"PromptEncoder": 1}
    assert decide(make_context("PromptEncoder", 1, requests=0)) == {"PromptEncoder": 1}, "for a while"


def test_a_deployment_of_no_lane_is_set_by_hand_as_well() -> None:
    editor = make_context("Editor", 1, make_figures("PromptEncoder", floor=[1.0]))
    assert decide(make_context("PromptEncoder", 0), editor)["PromptEncoder"] == 1


def test_hands_reach_the_decision() -> None:
    figures = make_figures(jobs=[20.0], backlog_s=[900.0], pin=[2.0], floor=[0.0])
    assert decide(make_context("FluxFill", 5), make_context("Editor", 1, figures))["FluxFill"] == 2
    floor = {**make_figures(jobs=[0.0]), name_key("floor", "Editor"): [3.0]}
    assert decide(make_context("Editor", 1, floor)) == {"Editor": 3}


def test_what_is_no_longer_set_by_hand_is_forgotten_at_once() -> None:
    editor = make_context("Editor", 1, make_figures(jobs=[1.0], backlog_s=[1.0]))
    own = ReplicaID("0", editor.deployment_id)
    assert editor.raw_metrics is not None
    editor.raw_metrics[name_key("pin", "FluxFill")] = {own: [TimeStampedValue(NOW - 2, 5.0)]}
    editor.raw_metrics["running_requests"] = {own: [TimeStampedValue(NOW, 0.0)]}  # Serve's own
    assert decide(make_context("FluxFill", 1), editor)["FluxFill"] == 1


@pytest.mark.parametrize(
    ("target", "figures", "replicas"),
    [
        (1, make_figures(jobs=[20.0], backlog_s=[90.0]), 3),
        (1, make_figures(jobs=[1.0], backlog_s=[1.0], floor=[3.0]), 3),
        (4, make_figures(jobs=[20.0], backlog_s=[900.0], pin=[2.0]), 2),
        (4, {**make_figures(jobs=[1.0], backlog_s=[1.0]), "starting:FluxFill": [3.0]}, 1),
    ],
)
def test_serve_obeys_also_while_none_runs_and_a_request_waits(
    target: int, figures: dict[str, list[float]], replicas: int
) -> None:
    flux, editor = make_context("FluxFill", target, requests=1), make_context("Editor", 1, figures)
    flux.current_num_replicas = 0  # the replicas of the target start
    serve = _apply_app_level_autoscaling_config(POLICY)
    decisions, _ = serve({each.deployment_id: each for each in (flux, editor)})
    assert decisions[flux.deployment_id] == replicas


def test_time_is_kept_from_decision_to_decision() -> None:
    patient = BacklogPolicy({"FluxFill": {"down_after_s": 60}}, {"images": ["FluxFill"]})
    figures = make_figures(jobs=[1.0], backlog_s=[1.0])
    flux, editor = make_context("FluxFill", 3), make_context("Editor", 1, figures)
    _, states = patient({each.deployment_id: each for each in (flux, editor)})
    flux.policy_state = states[flux.deployment_id]
    assert decide(flux, editor, policy=patient)["FluxFill"] == 3
    flux.policy_state = {"lower_since": NOW - 60}
    assert decide(flux, editor, policy=patient)["FluxFill"] == 2


def test_a_defect_changes_nothing_and_raises_nothing(caplog: pytest.LogCaptureFixture) -> None:
    broken = make_context("Editor", 1, make_figures(jobs=[1.0]))
    broken.current_time = None
    assert decide(make_context("FluxFill", 3), broken, policy=BacklogPolicy({}, LANES)) == {}
    assert "no decision about replicas" in caplog.text


def test_a_defect_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, broken = BacklogPolicy({}, LANES), make_context("Editor", 1, make_figures(jobs=[1.0]))
    broken.current_time = None
    said = []
    for now in (100.0, 100.1, 159.9, 160.0):
        monkeypatch.setattr("serve_app.telemetry.time.monotonic", lambda now=now: now)
        decide(broken, policy=policy)
        said.append(len(caplog.records))
    assert said == [1, 1, 1, 2]


def test_where_nobody_configures_logs_lines_are_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in Serve's controller, whose other loggers are left alone."""
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "propagate", False)
    for _ in range(2):
        decide(make_context("FluxFill", 1), policy=BacklogPolicy({}, LANES))
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["severity"] for line in lines] == ["ERROR", "ERROR"]


def test_the_shipped_config_is_a_plan_that_names_every_scaled_deployment() -> None:
    application = read_plan(CONFIG, Settings(), "127.0.0.1").applications[0]
    scaled = {each.name for each in application.deployments if each.is_autoscaling_configured()}
    policy = application.autoscaling_policy["policy_kwargs"]
    assert scaled <= policy["deployments"].keys()
    in_lanes = {name for names in policy["lanes"].values() for name in names}
    assert in_lanes == {"Draft", "FluxFill", "FluxBase", "Headshots"}
    for each in application.deployments:
        if each.is_autoscaling_configured():
            # Serve's own delays would hold up what is set by hand.
            assert (each.autoscaling_config["upscale_delay_s"], each.autoscaling_config["downscale_delay_s"]) == (0, 0)
