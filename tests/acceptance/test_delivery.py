"""`python -m delivery verify` on the real service."""

from __future__ import annotations

import subprocess
import sys

import pytest

from serve_app import __version__
from tests.acceptance.conftest import Running

pytestmark = pytest.mark.serve


def verify(service: Running, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "delivery", "verify", "--url", service.process.url, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_running_version_is_verified_by_an_edit(service: Running) -> None:
    done = verify(service, "--version", __version__, "--edit", "--quality", "draft", "--wait", "30")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"/health: alive, version {__version__}" in done.stdout
    assert "under the mask, by nothing outside it" in done.stdout
    wrong = verify(service, "--version", "f" * 40, "--wait", "0")
    assert wrong.returncode == 1
    assert f"tells of version {__version__}, not of {'f' * 40}." in wrong.stdout
