"""The emulators of Pub/Sub, Firestore and Cloud Storage as child processes; `python -m pawfect.emulators` for a person.

Over a `restart` Cloud Storage keeps its state on disk, and Firestore keeps that of the project's default database, by
an export. Pub/Sub's emulator has no such thing: topics and subscriptions have to be made again (`resources`), and
messages not yet acknowledged are lost. The storage emulator ignores generation preconditions; Pub/Sub's enforces no
limit on attributes and signs no push.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import httpx

from pawfect.resources import provision
from pawfect.service_process import find_free_port
from serve_app.errors import ConfigurationError
from serve_app.google_clients import make_clients
from serve_app.settings import load_settings

Name = Literal["pubsub", "firestore", "storage"]

PORTS: Mapping[Name, int] = {"pubsub": 8085, "firestore": 8086, "storage": 8087}
VARIABLES: Mapping[Name, str] = {
    "pubsub": "PUBSUB_EMULATOR_HOST",
    "firestore": "FIRESTORE_EMULATOR_HOST",
    "storage": "STORAGE_EMULATOR_HOST",
}
LOOPBACK = "127.0.0.1"
START_S = 90.0
"""From the start of the process to the first answer, on a slow machine; two of them are Java behind a wrapper."""
STOP_S = 20.0
"""From SIGTERM to SIGKILL."""


def find_missing() -> str | None:
    """Why the emulators cannot run here; None when they can."""
    if shutil.which("gcloud") is None:
        return "gcloud is not installed"
    if shutil.which("java") is None:
        return "java is not installed"
    if _find_storage_emulator() is None:
        return "gcp-storage-emulator is not installed"
    return None


def _find_storage_emulator() -> str | None:
    beside = Path(sys.executable).with_name("gcp-storage-emulator")
    return str(beside) if beside.exists() else shutil.which("gcp-storage-emulator")


@dataclass(frozen=True, slots=True)
class _Running:
    process: subprocess.Popen[bytes]
    port: int


class Emulators:
    """All three, each in a process group of its own: gcloud leaves a Java child behind when only it is ended.

    `directory` takes their logs and data. Without `ports` free ones are taken, on `host`, an address of this machine.
    Raises ConfigurationError where one is not installed, its port is taken, or it does not answer in time.
    """

    def __init__(
        self, directory: Path, *, ports: Mapping[Name, int] | None = None, project: str = "demo", host: str = LOOPBACK
    ) -> None:
        self.project = project
        self._host = host
        self._directory = directory
        self._ports = dict(ports) if ports else {name: find_free_port() for name in PORTS}
        self._running: dict[Name, _Running] = {}
        self._exports = 0

    def start(self) -> None:
        if (reason := find_missing()) is not None:
            raise ConfigurationError(f"The emulators cannot run here: {reason}.")
        for folder in ("pubsub", "firestore"):  # neither makes its own
            (self._directory / folder).mkdir(parents=True, exist_ok=True)
        for port in self._ports.values():
            if self._listens(port):
                raise ConfigurationError(f"Port {port} is taken on this machine; stop what has it, or use --free.")
        try:
            for name in self._ports:
                self._launch(name)
            for name in self._ports:
                self._wait(name)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends all of them with their children, frozen ones too."""
        for name in list(self._running):
            self._signal(name, signal.SIGCONT)
            self._signal(name, signal.SIGTERM)
        for name in list(self._running):
            self._end(name)

    def freeze(self, name: Name) -> None:
        """SIGSTOP: connections stay open, and nothing answers."""
        self._signal(name, signal.SIGSTOP)

    def thaw(self, name: Name) -> None:
        self._signal(name, signal.SIGCONT)

    def restart(self, name: Name, *, quiet: AbstractContextManager[object] | None = None) -> None:
        """Stop it and start it again on the same port; see the module for what it remembers.

        Firestore's emulator loses what is written between its export and its end, a few milliseconds, as the real one
        never would. Who cannot have that gives a context in which nobody writes.
        """
        self._signal(name, signal.SIGCONT)
        with quiet or contextlib.nullcontext():
            if name == "firestore":
                self._export()
            self._signal(name, signal.SIGTERM)
            self._end(name)
        self._launch(name)
        self._wait(name)

    def _export(self) -> None:
        """By the emulator's own endpoint: its --export-on-exit writes nothing when it is ended by a signal."""
        self._exports += 1
        url = f"http://{self._host}:{self._ports['firestore']}/emulator/v1/projects/{self.project}:export"
        body = {
            "database": f"projects/{self.project}/databases/(default)",
            "export_directory": str(self._directory / "firestore"),
            "export_name": f"export-{self._exports}",
        }
        answer = httpx.post(url, json=body, headers={"Authorization": "Bearer owner"}, timeout=START_S, trust_env=False)
        if answer.is_error:
            raise ConfigurationError(f"The firestore emulator could not export its state: {answer.text}")

    def environment(self) -> dict[str, str]:
        """What a process needs to speak to them instead of to Google."""
        hosts = {VARIABLES[name]: f"{self._host}:{port}" for name, port in self._ports.items()}
        hosts[VARIABLES["storage"]] = "http://" + hosts[VARIABLES["storage"]]
        return {**hosts, "GOOGLE_CLOUD_PROJECT": self.project, "PROJECT_ID": self.project}

    def _answers(self, port: int) -> bool:
        """All three answer any HTTP request, were it with 404."""
        try:
            httpx.get(f"http://{self._host}:{port}/", timeout=2, trust_env=False)
        except httpx.TransportError:
            return False
        return True

    def _listens(self, port: int) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex((self._host, port)) == 0

    def find_dead(self) -> list[Name]:
        """Those that have ended by themselves."""
        return [name for name, running in self._running.items() if running.process.poll() is not None]

    def tail(self, name: Name, lines: int = 15) -> str:
        return "\n".join(self._log(name).read_text(errors="replace").splitlines()[-lines:])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _log(self, name: Name) -> Path:
        return self._directory / f"{name}.log"

    def _command(self, name: Name, port: int) -> list[str]:
        address = f"--host-port={self._host}:{port}"
        if name == "storage":
            return [str(_find_storage_emulator()), "start", f"--host={self._host}", f"--port={port}", "--quiet"]
        command = ["gcloud", "beta", "emulators", name, "start", address, f"--project={self.project}"]
        if name == "pubsub":
            return [*command, f"--data-dir={self._directory / 'pubsub'}"]
        export = f"export-{self._exports}"
        state = self._directory / "firestore" / export / f"{export}.overall_export_metadata"
        return [*command, f"--import-data={state}"] if self._exports else command

    def _launch(self, name: Name) -> None:
        port = self._ports[name]
        environment = {
            **{variable: value for variable, value in os.environ.items() if variable not in VARIABLES.values()},
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
            "STORAGE_BASE": str(self._directory),
            "STORAGE_DIR": "storage",
        }
        with self._log(name).open("ab") as log:
            process = subprocess.Popen(  # noqa: S603
                self._command(name, port),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        self._running[name] = _Running(process, port)

    def _wait(self, name: Name) -> None:
        running = self._running[name]
        give_up_at = time.monotonic() + START_S
        while not self._answers(running.port):
            if running.process.poll() is not None or time.monotonic() > give_up_at:
                raise ConfigurationError(f"The {name} emulator did not start.\n{self.tail(name)}")
            time.sleep(0.2)

    def _signal(self, name: Name, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._running[name].process.pid, number)

    def _end(self, name: Name) -> None:
        """Until the port is free, since the children may outlive the process that was started."""
        running = self._running[name]
        give_up_at = time.monotonic() + STOP_S
        while (running.process.poll() is None or self._listens(running.port)) and time.monotonic() < give_up_at:
            time.sleep(0.1)
        self._signal(name, signal.SIGKILL)
        running.process.wait()
        del self._running[name]


async def _provision(project: str, push_endpoint: str, headshot_endpoint: str) -> None:
    settings = load_settings(env="gcp", project_id=project)
    clients = make_clients(settings)
    try:
        await asyncio.to_thread(provision, clients, settings.google, push_endpoint, headshot_endpoint=headshot_endpoint)
    finally:
        await clients.close()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("emulators", description="Run the emulators until SIGTERM or Ctrl-C.")
    parser.add_argument("--free", action="store_true", help=f"take free ports instead of {[*PORTS.values()]}")
    parser.add_argument("--project", default="demo", help="project id (default: demo)")
    parser.add_argument(
        "--push-endpoint",
        default="http://127.0.0.1:8000/inpaint",
        help="where the push subscription delivers (default: the service on this machine)",
    )
    parser.add_argument(
        "--headshot-endpoint",
        default="http://127.0.0.1:8000/headshot/push",
        help="where the headshots' push subscription delivers (default: the service on this machine)",
    )
    options = parser.parse_args(arguments)
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    try:
        with tempfile.TemporaryDirectory(prefix="emulators-") as directory:
            ports = None if options.free else PORTS
            with Emulators(Path(directory), ports=ports, project=options.project) as emulators:
                os.environ.update(emulators.environment())
                asyncio.run(_provision(options.project, options.push_endpoint, options.headshot_endpoint))
                _announce(emulators, options.push_endpoint)
                return _stand_by(emulators, stop)
    except ConfigurationError as error:
        print(f"cannot start: {error.message}", file=sys.stderr)
        return 2


def _announce(emulators: Emulators, push_endpoint: str) -> None:
    for variable, value in {**emulators.environment(), "ENV": "gcp"}.items():
        print(f"export {variable}={value}")
    print(f"# the emulators are up, pushing to {push_endpoint}; Ctrl-C stops them", flush=True)


def _stand_by(emulators: Emulators, stop: threading.Event) -> int:
    while not stop.wait(1.0):
        if dead := emulators.find_dead():
            print(f"the {dead[0]} emulator has ended:\n{emulators.tail(dead[0])}", file=sys.stderr)
            return 1
    print("# stopping", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
