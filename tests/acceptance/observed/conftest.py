"""The service with a collector of traces, started once for this package and ended with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.observed_service import ObservedService, open_observed_service


@pytest.fixture(scope="package")
def observed(tmp_path_factory: pytest.TempPathFactory, weights: None) -> Iterator[ObservedService]:
    with open_observed_service(tmp_path_factory.mktemp("observed")) as service:
        yield service
