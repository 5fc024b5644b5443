"""A real Prometheus (Debian's package), which scrapes a running service once a second and evaluates our rules."""

from __future__ import annotations

import math
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import yaml

from pawfect.service_process import find_free_port
from tests.promql import RULES

START_S = 30.0
INTERVAL = "1s"


@dataclass(frozen=True)
class Sample:
    labels: Mapping[str, str]
    value: float


def find_missing() -> str | None:
    """Why it cannot run here; None when it can."""
    return None if shutil.which("prometheus") else "prometheus is not installed (Debian's package prometheus)"


class Prometheus:
    """Listens on a loopback port of its own; what it stores and logs lies in `folder`."""

    def __init__(self, folder: Path, scraped_port: int) -> None:
        self._folder = folder
        self._scraped_port = scraped_port
        self._port = find_free_port()
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=30, trust_env=False)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        config = self._folder / "prometheus.yaml"
        config.write_text(yaml.safe_dump(self._configure()))
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={config}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._wait_ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(START_S)
        self._http.close()

    def _configure(self) -> dict[str, Any]:
        target = {"targets": [f"127.0.0.1:{self._scraped_port}"]}
        return {
            "global": {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": "pawfect", "static_configs": [target]}],
        }

    def _wait_ready(self) -> None:
        """Until it has scraped once."""
        give_up_at = time.monotonic() + START_S
        while time.monotonic() < give_up_at:
            try:
                if any(sample.value == 1 for sample in self.query("up")):
                    return
            except httpx.HTTPError:
                assert self._process is not None
                assert self._process.poll() is None, (self._folder / "prometheus.log").read_text()
            time.sleep(0.2)
        raise TimeoutError(f"no scrape within {START_S:.0f} s: {(self._folder / 'prometheus.log').read_text()}")

    def query(self, expression: str) -> list[Sample]:
        """Evaluate now; samples that are not a number are left out. Raises HTTPStatusError for what is no PromQL."""
        response = self._http.post("/api/v1/query", data={"query": expression})
        response.raise_for_status()
        found = response.json()["data"]
        if found["resultType"] == "scalar":
            return [Sample({}, float(found["result"][1]))]
        samples = [Sample(each["metric"], float(each["value"][1])) for each in found["result"]]
        return [sample for sample in samples if not math.isnan(sample.value)]

    def list_firing(self) -> list[Mapping[str, str]]:
        alerts = self._http.get("/api/v1/alerts").json()["data"]["alerts"]
        return [alert["labels"] for alert in alerts if alert["state"] == "firing"]

    def list_unhealthy_rules(self) -> list[str]:
        """Rules that could not be evaluated, with what was in the way."""
        groups = self._http.get("/api/v1/rules").json()["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return [f"{rule['name']}: {rule.get('lastError', '')}" for rule in rules if rule["health"] == "err"]

    def count_rules(self) -> int:
        groups = self._http.get("/api/v1/rules").json()["data"]["groups"]
        return sum(len(group["rules"]) for group in groups)
