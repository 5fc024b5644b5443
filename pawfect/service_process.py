"""The service as a child process: started on a free port, asked until it is ready, stopped with all it started."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from pawfect.client import Client

START_S = 180.0
"""From the start of the process to the first engine that is ready, on a slow machine."""
STOP_S = 120.0
"""A drain takes as long as the runs that are under way."""


class ServiceDied(Exception):
    """The service ended, or was not ready in time; the message ends with its last lines."""


class ServiceProcess:
    """`environment` is added to this process's own. Output goes to `log`."""

    def __init__(
        self,
        data_dir: Path,
        log: Path,
        *,
        port: int | None = None,
        config: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.port = port or find_free_port()
        self.metrics_port = find_free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        self._command = [sys.executable, "-m", "pawfect", "serve", "--port", str(self.port), "--data", str(data_dir)]
        if config is not None:
            self._command += ["--config", str(config)]
        self._environment = {**os.environ, "PAWFECT_METRICS_PORT": str(self.metrics_port), **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            # A session of its own, so that a Ctrl-C at the terminal reaches only us and we stop it in order.
            self._process = subprocess.Popen(  # noqa: S603
                self._command, stdout=log, stderr=subprocess.STDOUT, env=self._environment, start_new_session=True
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def wait_ready(self, timeout_s: float = START_S) -> None:
        """Raises ServiceDied."""
        assert self._process is not None
        reason = "not started"
        try:
            async with asyncio.timeout(timeout_s), Client(self.url) as client:
                while self._process.poll() is None:
                    ready, reason = await client.ready()
                    if ready:
                        return
                    await asyncio.sleep(0.25)
        except TimeoutError:
            raise ServiceDied(f"Not ready within {timeout_s:.0f} s ({reason}).\n{self.tail()}") from None
        raise ServiceDied(f"The service ended with status {self._process.returncode}.\n{self.tail()}")

    def stop(self) -> int:
        """SIGTERM, and SIGKILL for one that does not end; its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop()


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
