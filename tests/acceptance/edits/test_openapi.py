"""Whatever is sent to the real service, it answers as its own OpenAPI document says, and never with a defect."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.edits.conftest import Running

pytestmark = pytest.mark.serve

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
)
PER_OPERATION = os.environ.get("FUZZ_CASES", "20")
"""Random cases per operation beside the systematic ones, some 1,700; `make fuzz` takes 100."""


def test_random_requests_are_answered_as_documented(service: Running, tmp_path: Path) -> None:
    # A new seed each time: it is printed, and a failure can be replayed.
    command = [Path(sys.executable).with_name("schemathesis"), "run", f"{service.process.url}/openapi.json"]
    options = ["--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "-n", PER_OPERATION, "-w", "2"]
    finished = subprocess.run(
        [*command, *options, "--continue-on-failure"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    print(finished.stdout[-6000:])
    assert finished.returncode == 0, finished.stdout[-6000:]
    cases = re.search(r"(\d+) generated", finished.stdout)
    assert cases is not None
    assert int(cases[1]) >= 1000
