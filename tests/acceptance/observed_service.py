"""The service as those see it who look after it: with a collector of traces, with secrets that must never be seen, and
with both engines of edits and that of headshots."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from ingress.api_keys import draw_key, hash_key
from pawfect.serve_plan import CONFIG
from pawfect.service_process import ServiceProcess
from tests.collector import Collector, open_collector


@dataclass(frozen=True)
class ObservedService:
    """`secrets` are those of its environment, by name; `key` is a caller's."""

    process: ServiceProcess
    collector: Collector
    key: str
    secrets: Mapping[str, bytes]
    log: Path

    def list_folders(self) -> list[Path]:
        """The folders that Ray's processes of this service log into, as their command lines say."""
        commands = [_read_command(process) for process in self._list_children()]
        names = ("--logs-dir=", "--log-dir=", "--log_dir=")
        return sorted({Path(word.partition("=")[2]) for words in commands for word in words if word.startswith(names)})

    def read_ray_token(self) -> bytes:
        """What lets one in at Ray's own ports; the service draws it when it starts."""
        tokens = {process.environ().get("RAY_AUTH_TOKEN", "") for process in self._list_children()} - {""}
        assert len(tokens) == 1
        return tokens.pop().encode()

    def _list_children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


def _write_config(path: Path) -> Path:
    """As shipped, with Serve's files as JSON, and a replica of the model from the start."""
    plan = yaml.safe_load(CONFIG.read_text())
    for deployment in plan["applications"][0]["deployments"]:
        deployment["logging_config"] = {**deployment.get("logging_config", {}), "encoding": "JSON"}
        if deployment["name"] in ("FluxFill", "PromptEncoder"):
            deployment["autoscaling_config"] = {"min_replicas": 1, "initial_replicas": 1, "max_replicas": 1}
    path.write_text(yaml.safe_dump(plan))
    return path


def _read_command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has just ended
        return []


@contextmanager
def open_observed_service(root: Path) -> Iterator[ObservedService]:
    from bench.tiny_flux import write_checkpoint  # torch, seconds that most tests need not spend

    key, token, private = draw_key(), f"hf_{secrets.token_hex(17)}", secrets.token_hex(40)
    rows = root / "keys.json"
    rows.write_text(json.dumps([{"name": "observer", "sha256": hash_key(key), "users": ["*"]}]))
    account = {"type": "service_account", "project_id": "p", "private_key": private, "client_email": "a@b.example"}
    credentials = base64.b64encode(json.dumps(account).encode()).decode()
    log, config = root / "service.log", _write_config(root / "serve_config.yaml")
    with open_collector() as collector:
        environment = {
            "PAWFECT_FLUX__CHECKPOINTS": json.dumps({"flux-fill-dev": str(write_checkpoint(root / "fill"))}),
            "PAWFECT_FLUX__DEVICE": "cpu",
            "PAWFECT_FLUX__PROMPT_DIR": str(root / "prompts"),
            "PAWFECT_QUALITY": "low",
            "PAWFECT_CALLERS__KEYS_FILE": str(rows),
            "PAWFECT_LOG_LEVEL": "DEBUG",
            "PAWFECT_TRACING__OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "HF_TOKEN": token,
            "FIREBASE_CREDENTIALS": credentials,
        }
        with ServiceProcess(root / "data", log, config=config, environment=environment) as process:
            asyncio.run(process.wait_ready())
            canaries = {
                "hub token": token.encode(),
                "private key": private.encode(),
                "credentials": credentials[8:80].encode(),
            }
            yield ObservedService(process, collector, key, canaries, log)
