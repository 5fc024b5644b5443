"""The checkpoint that a FLUX replica loads, and how another one takes its place; the shell is held without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve_app.deployments.engines import FluxShell
from serve_app.engines.draft import DraftEngine
from serve_app.engines.protocol import Done
from serve_app.errors import ConfigurationError, WeightsUnavailable
from serve_app.flux.checkpoint import HUB
from serve_app.metrics import PlainSink
from serve_app.settings import Settings
from serve_app.settings_sections import FluxSettings
from serve_app.tracing import Tracing
from tests.shells import collect, invent


@pytest.fixture
def flux_loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The checkpoints that were loaded, by a FluxShell outside Ray."""
    loads: list[str] = []

    def load(settings: Settings, name: str, *_others: object) -> DraftEngine:
        loads.append(settings.flux.checkpoints[name])
        return DraftEngine(invent)

    monkeypatch.setattr("serve_app.deployments.engines._load_flux", load)
    monkeypatch.setattr("serve_app.deployments.engines._observe", lambda *_: Tracing())
    monkeypatch.setattr("serve_app.deployments.engines.RaySink", PlainSink)
    monkeypatch.setattr("serve_app.deployments.engines.find_gpu_share", lambda: 0.0)
    return loads


def hold_flux(checkpoint: str) -> FluxShell:
    flux = FluxSettings(checkpoints={"flux-fill-dev": checkpoint})
    return FluxShell(Settings(flux=flux), "flux-fill-dev", None)  # type: ignore[arg-type]


async def test_a_checkpoint_is_changed_in_place(flux_loads: list[str]) -> None:
    shell = hold_flux("/weights/first")
    await shell.reconfigure({"checkpoint": HUB})
    await shell.reconfigure({"checkpoint": HUB})
    assert flux_loads == [HUB]
    assert isinstance((await collect(shell))[-1], Done)
    await shell.stop()


UNUSABLE: list[tuple[dict[str, Any], str]] = [
    ({"checkpoint": 3}, "user_config checkpoint"),
    ({"checkpiont": HUB}, "checkpiont"),
]


@pytest.mark.parametrize(
    ("user_config", "words"),
    [
        *UNUSABLE,
        ({"checkpoint": "/no/such/folder"}, "no folder /no/such/folder"),
        ({"checkpoint": "."}, "it lacks model_index.json"),
    ],
)
async def test_a_checkpoint_that_is_not_there_leaves_the_model_as_it_is(
    tmp_path: Path,
    flux_loads: list[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    user_config: dict[str, Any],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    shell = hold_flux(HUB)
    await collect(shell)
    await shell.reconfigure(user_config)
    assert words in caplog.text
    assert isinstance((await collect(shell))[-1], Done)
    await shell.check_health()
    assert flux_loads == [HUB]
    await shell.stop()


@pytest.mark.parametrize(("user_config", "words"), UNUSABLE)
async def test_a_replica_that_starts_takes_no_model_that_nobody_named(
    flux_loads: list[str], user_config: dict[str, Any], words: str
) -> None:
    shell = hold_flux(HUB)
    with pytest.raises(ConfigurationError, match=words):
        await shell.reconfigure(user_config)
    assert flux_loads == []
    await shell.stop()


async def test_a_replica_that_starts_tries_to_load_what_is_not_there_yet(flux_loads: list[str]) -> None:
    """A mount may be late; how often that is tried, and what becomes of it, is the loader's business."""
    shell = hold_flux(HUB)
    await shell.reconfigure({"checkpoint": "/no/such/folder"})
    assert flux_loads == ["/no/such/folder"]
    await shell.stop()


async def test_a_folder_that_cannot_be_read_now_is_loaded_all_the_same(
    flux_loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise WeightsUnavailable("/weights/new cannot be read")

    monkeypatch.setattr("serve_app.deployments.engines.check_source", fail)
    shell = hold_flux(HUB)
    await collect(shell)
    await shell.reconfigure({"checkpoint": "/weights/new"})
    assert flux_loads == [HUB, "/weights/new"]
    await shell.stop()
