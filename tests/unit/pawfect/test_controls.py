"""The operators' commands, on the embedded store."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pawfect.command import main
from pawfect.controls import describe
from serve_app.jobs.controls import Controls, Hand, Pause
from serve_app.settings import Settings
from serve_app.stores import open_stores


def read(data: Path) -> Controls:
    async def work() -> Controls:
        stores = open_stores(Settings(data_dir=data))
        try:
            return await stores.controls.read()
        finally:
            await stores.close()

    return asyncio.run(work())


def run(data: Path, *arguments: str) -> int:
    return main([*arguments, "--data", str(data)])


def test_a_pause_is_written_and_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "pause", "--why", "bad weights", "--for", "2h") == 0
    assert "PAUSED" in capsys.readouterr().out
    pause = read(tmp_path).pause
    assert pause is not None
    assert (pause.why, pause.until) == ("bad weights", pytest.approx(pause.at + 7200))
    assert run(tmp_path, "controls") == 0
    assert "bad weights" in capsys.readouterr().out
    assert run(tmp_path, "resume") == 0
    assert read(tmp_path).pause is None
    assert "consumption: running" in capsys.readouterr().out


def test_replicas_are_set_and_left_to_the_policy_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAWFECT_FLUX__CHECKPOINTS", '{"flux-fill-dev": "hub"}')
    assert run(tmp_path, "scale", "FluxFill", "--pin", "3") == 0
    assert run(tmp_path, "scale", "Headshots", "--floor", "2", "--for", "3d", "--why", "campaign") == 0
    hands = read(tmp_path).hands
    assert (hands["FluxFill"].pin, hands["FluxFill"].until) == (3, None)
    assert (hands["Headshots"].floor, hands["Headshots"].why) == (2, "campaign")
    assert run(tmp_path, "scale", "FluxFill", "--auto") == 0
    assert set(read(tmp_path).hands) == {"Headshots"}
    assert run(tmp_path, "scale", "PromptEncoder", "--floor", "1") == 0


def test_what_has_no_checkpoint_any_more_is_left_to_the_policy(tmp_path: Path) -> None:
    assert run(tmp_path, "scale", "FluxFill", "--auto") == 0


def test_more_than_the_file_says_is_set_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The running service's max_replicas may have been raised in place; Serve keeps to it."""
    assert run(tmp_path, "scale", "Headshots", "--pin", "2") == 0
    assert "at most" not in capsys.readouterr().out
    assert run(tmp_path, "scale", "Headshots", "--pin", "99") == 0
    assert "Headshots has at most 2 replicas" in capsys.readouterr().out
    assert read(tmp_path).hands["Headshots"].pin == 99


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["scale", "Flux", "--pin", "1"], "Flux is not scaled; Editor, Headshots"),
        (["scale", "Draft", "--pin", "1"], "num_replicas"),
        (["scale", "FluxFill", "--floor", "1"], "no checkpoint"),
        (["scale", "FluxBase", "--pin", "1"], "no checkpoint"),
        (["scale", "PromptEncoder", "--pin", "1"], "no checkpoint"),
    ],
)
def test_what_cannot_be_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert run(tmp_path, *arguments) == 2
    assert words in capsys.readouterr().err
    assert read(tmp_path) == Controls()


@pytest.mark.parametrize(
    "arguments",
    [
        ["scale", "FluxFill", "--pin", "0"],
        ["scale", "FluxFill", "--floor", "-1"],
        ["scale", "FluxFill", "--pin", "1", "--auto"],
        ["scale", "FluxFill"],
        ["pause"],
        ["pause", "--why", "x", "--for", "soon"],
    ],
)
def test_a_wrong_word_is_refused(tmp_path: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, *arguments)
    assert read(tmp_path) == Controls()


def test_a_person_reads_what_is_set_and_what_is_over() -> None:
    pause = Pause(0.0, "why", "ops", until=10.0)
    hands = {"FluxFill": Hand(0.0, "", "ops", pin=2), "Editor": Hand(0.0, "", "ops", floor=3, until=5.0)}
    now, later = describe(Controls(pause, hands), 1.0), describe(Controls(pause, hands), 20.0)
    assert [line.split(" since")[0] for line in now] == [
        "consumption: PAUSED",
        "Editor: at least 3",
        "FluxFill: exactly 2",
    ]
    assert later[0] == "consumption: running"
    assert len(later) == 2
