"""What tests of every kind share: the emulators of Google's services."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import pytest

from pawfect.emulators import VARIABLES, Emulators, find_missing

# Ray makes its workers 15 nicer than what starts them. Beside anything else that computes, a service under test would
# get no time at all.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.fixture(scope="session")
def emulators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """Variable → address of all three: those that the environment names, else own ones. The variables stand in the
    environment while the session lasts, for subprocesses, too. Skips with the reason where they cannot run."""
    names = list(VARIABLES.values())
    if all(os.environ.get(name) for name in names):
        yield {name: os.environ[name] for name in names}
        return
    if (reason := find_missing()) is not None:
        pytest.skip(f"the emulators cannot run here: {reason}")
    with Emulators(tmp_path_factory.mktemp("emulators")) as running, pytest.MonkeyPatch.context() as patch:
        addresses = {name: running.environment()[name] for name in names}
        for name, address in addresses.items():
            patch.setenv(name, address)
        yield addresses
