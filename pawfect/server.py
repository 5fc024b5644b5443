"""The whole service in the foreground: a Ray of its own, the application of serve_config.yaml, until a signal comes."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import yaml

from serve_app.errors import ConfigurationError
from serve_app.google_clients import KEY_VARIABLE
from serve_app.settings import Settings

CONFIG = Path(__file__).resolve().parent.parent / "serve_config.yaml"
LOOPBACK = "127.0.0.1"
DRAIN_S = 240.0
"""Above the sum of the deployments' graceful_shutdown_timeout_s, which end one after the other."""
OBJECT_STORE_BYTES = 256 * 2**20
"""Ray's share of memory for what passes between replicas: crops of a few megabytes each."""


def run(settings: Settings, config: Path) -> None:
    """Serve until SIGTERM or SIGINT, then drain: running jobs end, or go back to the queue for the next start.

    Raises ConfigurationError when the port is taken, or the environment or the config file cannot be used.
    """
    _prepare_ray(settings)
    from serve_app.app import check

    check(settings)
    plan = read_config(config)
    _refuse_taken_port(settings.port)
    _start(settings, plan)
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):  # after Ray's start, which sets handlers of its own
        signal.signal(name, lambda *_: stop.set())
    where = f"data in {settings.data_dir}" if settings.env == "local" else "ENV=gcp"
    print(f"serving on http://{LOOPBACK}:{settings.port}, {where}", flush=True)
    stop.wait()
    for name in (signal.SIGTERM, signal.SIGINT):  # a second signal does not wait
        signal.signal(name, signal.SIG_DFL)
    print("draining", flush=True)
    _stop(plan["name"])


def _prepare_ray(settings: Settings) -> None:
    """Must come before the first import of Ray, which reads these once."""
    # Ray's own ports listen on every interface, and whoever may talk to them may run code. The token lives as long as
    # this process and its children; given explicitly, Ray writes no token file, which would outlive it.
    if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if settings.firebase_credentials is not None:  # from .env, say; the replicas look for it in their environment
        os.environ[KEY_VARIABLE] = settings.firebase_credentials.get_secret_value()
    if settings.hf_token is not None:
        os.environ["HF_TOKEN"] = settings.hf_token.get_secret_value()


def read_config(path: Path) -> dict[str, Any]:
    """The application of the file. Raises ConfigurationError for a file that Serve would not take either."""
    from pydantic import ValidationError
    from ray.serve.schema import ServeDeploySchema

    try:
        content = yaml.safe_load(path.read_text())
        ServeDeploySchema.model_validate(content)
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise ConfigurationError(f"{path} is not a usable Serve config: {error}") from error
    return {
        "http": content.get("http_options", {}),
        "name": content["applications"][0]["name"],
        "options": {
            each["name"]: {name: value for name, value in each.items() if name != "name"}
            for each in content["applications"][0]["deployments"]
        },
    }


def _start(settings: Settings, plan: dict[str, Any]) -> None:
    import ray
    from ray import serve

    from serve_app.app import compose

    ray.init(
        address="local",
        num_cpus=max(6, os.cpu_count() or 6),  # the replicas ask for 5.75 together, also on a machine with one core
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        _metrics_export_port=settings.metrics_port or None,
    )
    # Strangers are let near only where every push is verified.
    is_open = settings.env == "gcp" and bool(settings.google.push_account)
    host = {"host": "0.0.0.0" if is_open else LOOPBACK}  # noqa: S104
    serve.start(proxy_location="HeadOnly", http_options={**plan["http"], **host, "port": settings.port})
    serve.run(compose(settings, plan["options"]), name=plan["name"], route_prefix="/")


def _stop(application: str) -> None:
    """First the application, in the order of its calls, while the proxy still answers those who wait; then the rest."""
    import ray
    from ray import serve

    give_up_at = time.monotonic() + DRAIN_S
    while time.monotonic() < give_up_at:
        try:
            serve.delete(application)
            break
        except TimeoutError:
            print("still draining", flush=True)
    serve.shutdown()
    ray.shutdown()


def _refuse_taken_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            raise ConfigurationError(f"Port {port} is taken on this machine; choose another with PORT=.") from None
