"""Whole checkpoints with random weights, written once. They are shared: a test that changes one copies it first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.tiny_flux import BASE_CHANNELS, write_checkpoint
from serve_app.flux.spec import SPECS
from tests.model_hub import ModelHub, open_hub


@pytest.fixture(scope="session")
def tiny_fill(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a checkpoint that the row flux-fill-dev fits."""
    return write_checkpoint(tmp_path_factory.mktemp("flux") / "fill")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a checkpoint that the row flux-dev fits."""
    return write_checkpoint(tmp_path_factory.mktemp("flux") / "base", in_channels=BASE_CHANNELS)


@pytest.fixture
def hub(tiny_fill: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    """With the tiny checkpoint as flux-fill-dev, and what the real repository has beside its parts."""
    files = {path.relative_to(tiny_fill).as_posix(): path.read_bytes() for path in tiny_fill.rglob("*.*")}
    files |= {"flux1-fill-dev.safetensors": b"everything once more", "ae.safetensors": b"", "README.md": b""}
    with open_hub(SPECS["flux-fill-dev"], files, monkeypatch) as here:
        yield here
