"""The table of models: that its rows can be used, and how it answers."""

from __future__ import annotations

import re

import pytest

from serve_app.engines.protocol import Task
from serve_app.errors import ConfigurationError, EngineRejected
from serve_app.flux.spec import SPECS, ModelSpec, check_task, get_spec

ROWS = pytest.mark.parametrize("row", SPECS.values(), ids=lambda row: row.name)


@ROWS
def test_a_row_is_pinned_to_a_commit_of_its_repository(row: ModelSpec) -> None:
    assert re.fullmatch(r"[0-9a-f]{40}", row.revision), "a branch or tag may move"
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", row.repo)
    assert row.licence
    assert SPECS[row.name] is row


@ROWS
def test_a_row_has_text_lengths_that_t5_was_used_with(row: ModelSpec) -> None:
    assert list(row.text_lengths) == sorted(set(row.text_lengths))
    assert row.text_lengths[0] > 0
    assert row.text_lengths[-1] <= 512


@ROWS
def test_a_row_does_something(row: ModelSpec) -> None:
    assert row.tasks
    assert row.steps >= 1
    assert row.guidance >= 0


def test_the_channels_are_those_the_tasks_need() -> None:
    noise, masked_image, mask = 16 * 4, 16 * 4, 8 * 8 * 4  # of 2 × 2 latent pixels, each of 8 × 8 pixels
    for row in SPECS.values():
        assert row.in_channels == (noise + masked_image + mask if Task.FILL in row.tasks else noise)


def test_a_row_is_got_by_its_name() -> None:
    assert get_spec("flux-dev").name == "flux-dev"


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="no model 'flux-pro'; known are flux-fill-dev, flux-dev"):
        get_spec("flux-pro")


@ROWS
@pytest.mark.parametrize("task", Task)
def test_a_task_is_accepted_or_answered_with_the_models_that_do_it(row: ModelSpec, task: Task) -> None:
    if task in row.tasks:
        check_task(row, task)
        return
    with pytest.raises(EngineRejected) as caught:
        check_task(row, task)
    assert row.name in caught.value.message.split(";")[0]
    assert all((other.name in caught.value.message.split(";")[1]) == (task in other.tasks) for other in SPECS.values())


def test_no_two_models_share_an_engine_or_a_deployment() -> None:
    assert len({row.engine for row in SPECS.values()}) == len(SPECS)
    assert len({row.deployment for row in SPECS.values()}) == len(SPECS)
