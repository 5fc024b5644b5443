"""`make chaos-gcp`: freeze and restart each of Google's emulators while sessions are published, and count the damage.

Messages are published in as many batches as there are disturbances; each batch is under way when the next disturbance
comes. At the end:

- `completed`: sessions that show `completed` with their result in place;
- `double_effects`: sessions that came to show another job, or whose result was written again, after they had been seen
  completed;
- `lost`: sessions that nobody works on any more and that did not complete;
- `stuck`: sessions that were still under way when patience ended.

What the emulators cannot do is made up for, and nothing else: Pub/Sub's forgets everything over a restart, so topics
are made again and messages whose sessions are not done are published again, as new messages; Firestore's loses what is
written between its export and its end, so the service is held still (SIGSTOP) for that moment.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil

from bench.effects import Effects, insist
from bench.photos import clip_mask, detailed_photo
from pawfect.emulators import Emulators, Name
from pawfect.resources import provision
from pawfect.service_process import ServiceProcess, find_free_port
from pawfect.sessions import GoogleBackend
from serve_app.google_clients import make_clients
from serve_app.jobs.model import Session
from serve_app.settings import Settings
from serve_app.settings_sections import GoogleSettings

PROJECT = "chaos"
FREEZE_S = 8.0
"""Longer than the service waits for one call, so that calls fail and are not only late."""
PAUSE_S = 2.0
"""From a batch to its disturbance, and from one disturbance to the next batch."""
PATIENCE_S = 420.0
ENVIRONMENT = {
    "ENV": "gcp",
    "PROJECT_ID": PROJECT,
    "PAWFECT_GOOGLE__TIMEOUT_S": "3",
    "PAWFECT_GOOGLE__TRANSFER_TIMEOUT_S": "10",
    "PAWFECT_JOBS__LEASE_S": "20",
    "PAWFECT_JOBS__CLAIM_POLL_S": "0.2",
    "PAWFECT_JOBS__PUSH_WAIT_S": "60",
}
NAMES: tuple[Name, ...] = ("pubsub", "firestore", "storage")
DISTURBANCES = [("freeze", name) for name in NAMES] + [("restart", name) for name in NAMES]


class Chaos:
    def __init__(self, emulators: Emulators, service: ServiceProcess, backend: GoogleBackend, messages: int) -> None:
        self._emulators = emulators
        self._service = service
        self._backend = backend
        self._sessions = [Session("chaos", f"s{i:03}") for i in range(messages)]
        self._effects = Effects(backend)

    async def run(self) -> dict[str, object]:
        started = time.monotonic()
        photo, mask = detailed_photo(320, 240), clip_mask(320, 240)
        for session in self._sessions:
            await self._backend.create(session, photo, mask)
        watching = asyncio.create_task(self._effects.watch())
        size = -(-len(self._sessions) // len(DISTURBANCES))
        for i, (kind, name) in enumerate(DISTURBANCES):
            await self._publish(self._sessions[i * size : (i + 1) * size])
            await asyncio.sleep(PAUSE_S)
            await self._disturb(kind, name)
            print(f"{kind} {name}: {len(self._effects.seen)} of {len(self._effects.watched)} completed", flush=True)
            await asyncio.sleep(PAUSE_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while len(self._effects.seen) < len(self._sessions):
                    await asyncio.sleep(0.5)
        watching.cancel()
        ends = await self._effects.judge(self._sessions)
        return {"messages": len(self._sessions), **ends, "wall_s": round(time.monotonic() - started)}

    async def _publish(self, sessions: list[Session]) -> None:
        for session in sessions:
            await insist(partial(self._backend.publish_session, session))
            if session not in self._effects.watched:
                self._effects.watched.append(session)

    async def _disturb(self, kind: str, name: Name) -> None:
        if kind == "freeze":
            self._emulators.freeze(name)
            await asyncio.sleep(FREEZE_S)
            self._emulators.thaw(name)
            return
        quiet = held_still(self._service.pid) if name == "firestore" else contextlib.nullcontext()
        await asyncio.to_thread(self._emulators.restart, name, quiet=quiet)
        if name == "pubsub":
            await prepare(self._service.port)
            await self._publish([each for each in self._effects.watched if each not in self._effects.seen])


@contextlib.contextmanager
def held_still(pid: int) -> Iterator[None]:
    """SIGSTOP for a process and everything it started, SIGCONT at the end."""
    root = psutil.Process(pid)
    tree = [root, *root.children(recursive=True)]
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


async def prepare(port: int) -> None:
    clients = make_clients(Settings(env="gcp", project_id=PROJECT))
    await asyncio.to_thread(provision, clients, GoogleSettings(), f"http://127.0.0.1:{port}/inpaint")
    await clients.close()


async def run(folder: Path, messages: int) -> dict[str, object]:
    port = find_free_port()
    with Emulators(folder, project=PROJECT) as emulators:
        os.environ.update(emulators.environment())
        await prepare(port)
        environment = {**ENVIRONMENT, **emulators.environment()}
        with ServiceProcess(folder / "data", folder / "service.log", port=port, environment=environment) as service:
            await service.wait_ready()
            google = GoogleSettings(timeout_s=3, transfer_timeout_s=10)
            backend = GoogleBackend(Settings(env="gcp", project_id=PROJECT, google=google))
            result = await Chaos(emulators, service, backend, messages).run()
            await backend.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pawfect-chaos-") as folder:
        result = asyncio.run(run(Path(folder), options.messages))
    for name, value in result.items():
        print(f"{name:>16}: {value}")
    print(json.dumps({"chaos": "gcp", **result}))


if __name__ == "__main__":
    main()
