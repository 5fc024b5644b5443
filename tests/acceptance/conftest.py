"""What tests on the real service share. Those that share one service are a package with it."""

from __future__ import annotations

import pytest

from serve_app.errors import WeightsUnavailable
from serve_app.settings import Settings
from serve_app.weights import locate


@pytest.fixture(scope="session", autouse=True)
def weights() -> None:
    try:
        locate("migan", Settings().engines.weights_dir.expanduser())
    except WeightsUnavailable as error:
        pytest.skip(error.message)
