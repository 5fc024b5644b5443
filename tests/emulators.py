"""The emulators of Pub/Sub, Firestore and Cloud Storage for a test run: the ones the environment names, or own ones.

A missing `gcloud` skips what needs it, with the reason.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Emulator:
    """`variable` is where the vendor's clients look for its address, which `prefix` makes a URL of if they want one."""

    name: str
    variable: str
    command: Callable[[int], list[str]]
    prefix: str = ""


def _gcloud(service: str) -> Callable[[int], list[str]]:
    start = ["gcloud", "beta", "emulators", service, "start", "--quiet", "--project=demo"]
    return lambda port: [*start, f"--host-port=127.0.0.1:{port}"]


def _storage(port: int) -> list[str]:
    return ["gcp-storage-emulator", "start", "--host=127.0.0.1", f"--port={port}", "--in-memory"]


EMULATORS = (
    Emulator("Pub/Sub", "PUBSUB_EMULATOR_HOST", _gcloud("pubsub")),
    Emulator("Firestore", "FIRESTORE_EMULATOR_HOST", _gcloud("firestore")),
    Emulator("Cloud Storage", "STORAGE_EMULATOR_HOST", _storage, "http://"),
)


@pytest.fixture(scope="session")
def emulators() -> Iterator[Mapping[str, str]]:
    """Variable → address of all three. They stand in the environment while the session lasts, for subprocesses, too."""
    missing = [emulator for emulator in EMULATORS if not os.environ.get(emulator.variable)]
    with contextlib.ExitStack() as stack:
        for emulator in missing:
            if (reason := find_obstacle(emulator)) is not None:
                pytest.skip(reason)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        running = [(emulator, stack.enter_context(start(emulator))) for emulator in missing]
        for emulator, process in running:
            process.wait_ready()
            patch.setenv(emulator.variable, process.address)
        yield {emulator.variable: os.environ[emulator.variable] for emulator in EMULATORS}


def find_obstacle(emulator: Emulator) -> str | None:
    """Why this emulator cannot be started here, if so."""
    program = emulator.command(0)[0]
    return None if _find_program(program) else f"The {emulator.name} emulator needs {program}, which is not on PATH."


def _find_program(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))


class EmulatorProcess:
    def __init__(self, emulator: Emulator, process: subprocess.Popen[bytes], port: int) -> None:
        self.address = f"{emulator.prefix}127.0.0.1:{port}"
        self._name = emulator.name
        self._process = process
        self._port = port

    def wait_ready(self) -> None:
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
                return
            if self._process.poll() is not None:
                raise RuntimeError(f"The {self._name} emulator ended with {self._process.returncode} while starting.")
            if time.monotonic() > give_up_at:
                raise RuntimeError(f"The {self._name} emulator did not listen within {START_TIMEOUT_S:.0f} s.")
            time.sleep(0.1)

    def send_signal(self, number: signal.Signals) -> None:
        """To all of it: gcloud is a wrapper around a Java process, which would outlive it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def stop(self) -> None:
        self.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_S)
        self.send_signal(signal.SIGKILL)
        self._process.wait()


@contextlib.contextmanager
def start(emulator: Emulator, port: int | None = None) -> Iterator[EmulatorProcess]:
    """In a session of its own, on a free port unless one is given; not yet ready when this returns."""
    port = port or find_free_port()
    program, *arguments = emulator.command(port)
    process = subprocess.Popen(
        [_find_program(program) or program, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    running = EmulatorProcess(emulator, process, port)
    try:
        yield running
    finally:
        running.stop()


def find_free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
