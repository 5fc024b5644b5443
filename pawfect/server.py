"""`pawfect serve`: Ray, Serve and the application on this machine, until a signal; then an orderly end."""

from __future__ import annotations

import queue
import signal
import socket
import time
from pathlib import Path
from typing import Any

from pawfect.ray_environment import prepare_ray
from pawfect.serve_plan import count_cpus, read_plan
from serve_app.errors import ConfigurationError
from serve_app.settings import Settings

LOOPBACK = "127.0.0.1"
ALL_INTERFACES = "0.0.0.0"  # noqa: S104 – only where every push is verified
DRAIN_S = 600.0
"""Over twice the longest graceful_shutdown_timeout_s: Serve stops all deployments at once, and kills what is left."""
POLL_S = 0.1
OBJECT_STORE_BYTES = 256 * 2**20
"""Ray's share of memory for what passes between replicas: crops of a few megabytes each."""


def run(settings: Settings, config: Path) -> None:
    """Serve until SIGTERM or SIGINT, then drain: running jobs end, or go back to the queue for the next start. On
    SIGHUP the config file is read again and what has changed in it is applied.

    Raises ConfigurationError when the port is taken, or the environment or the config file cannot be used.
    """
    prepare_ray(settings)
    from serve_app.app import check

    check(settings)
    # Strangers are let near only where every push is verified.
    is_open = settings.env == "gcp" and bool(settings.google.push_account)
    host = ALL_INTERFACES if is_open else LOOPBACK
    plan = read_plan(config, settings, host)
    _refuse_taken_port(settings.port)
    _start(settings, plan)
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # after Ray's start, which sets handlers of its own
        signal.signal(name, lambda number, _: signals.put(number))
    where = f"data in {settings.data_dir}" if settings.env == "local" else "ENV=gcp"
    print(f"serving on http://{LOOPBACK}:{settings.port}, {where}", flush=True)
    while _wait(signals) == signal.SIGHUP:
        _apply_again(config, settings, host)
    for name in (signal.SIGTERM, signal.SIGINT):  # a second signal does not wait
        signal.signal(name, signal.SIG_DFL)
    print("draining", flush=True)
    _stop(plan.applications[0].name)


def _wait(signals: queue.SimpleQueue[int]) -> int:
    while True:
        try:
            return signals.get(timeout=POLL_S)  # a wait without end would keep Python from running the handlers
        except queue.Empty:
            continue


def _start(settings: Settings, plan: Any) -> None:
    import ray
    from ray import serve

    ray.init(
        address="local",
        num_cpus=count_cpus(plan, settings),
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        _metrics_export_port=settings.metrics_port or None,
    )
    serve.start(
        proxy_location="HeadOnly",
        http_options=plan.http_options.model_dump(exclude_unset=True),
        logging_config=plan.logging_config,
    )
    _deploy(plan)
    _await_application(plan.applications[0].name)


def _deploy(plan: Any) -> None:
    from ray.serve.context import _get_global_client

    _get_global_client().deploy_apps(plan)  # what `serve deploy` and KubeRay do, through the dashboard


def _await_application(name: str) -> None:
    """Raises ConfigurationError when Serve could not deploy it."""
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    while (found := serve.status().applications.get(name)) is None or found.status != ApplicationStatus.RUNNING:
        if found is not None and found.status == ApplicationStatus.DEPLOY_FAILED:
            raise ConfigurationError(f"Serve could not deploy the application: {found.message}")
        time.sleep(POLL_S)


def _apply_again(config: Path, settings: Settings, host: str) -> None:
    try:
        _deploy(read_plan(config, settings, host))
        print(f"{config} is applied", flush=True)
    except ConfigurationError as error:
        print(f"nothing is changed: {error.message}", flush=True)


def _stop(application: str) -> None:
    """First the application, all of it at once, while the proxy still answers those who wait; then the rest."""
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
