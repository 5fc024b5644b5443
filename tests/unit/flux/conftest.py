"""Whole checkpoints with random weights, written once. They are shared: a test that changes one copies it first."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.tiny_flux import BASE_CHANNELS, write_checkpoint


@pytest.fixture(scope="session")
def tiny_fill(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a checkpoint that the row flux-fill-dev fits."""
    return write_checkpoint(tmp_path_factory.mktemp("flux") / "fill")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a checkpoint that the row flux-dev fits."""
    return write_checkpoint(tmp_path_factory.mktemp("flux") / "base", in_channels=BASE_CHANNELS)
