"""`python -m delivery verify` on the real service."""

from __future__ import annotations

import subprocess
import sys
import time

import httpx
import pytest

from serve_app import __version__
from tests.acceptance.edits.conftest import Running

pytestmark = pytest.mark.serve


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, timeout=120, check=False)


def verify(service: Running, *options: str) -> subprocess.CompletedProcess[str]:
    return run("delivery", "verify", "--url", service.process.url, *options)


def await_refusal(service: Running, status: int) -> None:
    """Until a request that is no job at all is answered so."""
    for _ in range(200):
        if httpx.post(f"{service.process.url}/v1/jobs", json={}, trust_env=False).status_code == status:
            return
        time.sleep(0.1)
    raise AssertionError(f"the service has never answered {status}")


def test_a_running_version_is_verified_by_an_edit(service: Running) -> None:
    done = verify(service, "--version", __version__, "--edit", "--quality", "draft", "--wait", "30")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"/health: alive, version {__version__}" in done.stdout
    assert f"by version {__version__}: changed by" in done.stdout
    assert "under the mask, by nothing outside it" in done.stdout
    wrong = verify(service, "--version", "f" * 40, "--wait", "0")
    assert wrong.returncode == 1
    assert f"tells of version {__version__}, not of {'f' * 40}." in wrong.stdout


def test_a_paused_service_is_well_and_edits_nothing(service: Running) -> None:
    assert run("pawfect", "pause", "--why", "repairs", "--data", str(service.data)).returncode == 0
    try:
        await_refusal(service, 503)
        done = verify(service, "--edit", "--quality", "draft", "--wait", "30")
    finally:
        run("pawfect", "resume", "--data", str(service.data))
        await_refusal(service, 422)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not edited: consumption is paused by an operator (Paused by an operator: repairs." in done.stdout
