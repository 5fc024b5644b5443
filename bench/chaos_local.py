"""`make chaos-local`: SIGKILL the whole service in the middle of edits, again and again, and count what went wrong.

Each round publishes new sessions, waits until one of them is inside the engine, kills every process of the service,
starts it again and delivers again what was not acknowledged, as Pub/Sub would. At the end:

- `lost`: messages never acknowledged, or whose session does not show `completed` with its result in place;
- `double_effects`: jobs that were recorded as completed more than once, or whose result was written again after that.

A trigger of ours in the database records completions independently of the service's own code.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from bench.completions import Completions
from pawfect.client import Client
from pawfect.demo import SAMPLE
from pawfect.service_process import ServiceProcess
from pawfect.sessions import Backend
from serve_app.jobs.model import Session

SESSIONS_PER_ROUND = 2
ENGINE_S = 2.0
"""About what the sample takes inside the engine; a kill falls anywhere in that time."""
PATIENCE_S = 120.0
"""For anything to happen that should happen within seconds."""
ENVIRONMENT = {"PAWFECT_JOBS__LEASE_S": "3", "PAWFECT_JOBS__CLAIM_POLL_S": "0.1"}


@dataclass
class Message:
    session: Session
    id: str
    acknowledged: bool = False
    first_generation: str | None = None


@dataclass
class Chaos:
    data: Path
    log: Path
    seed: int
    messages: list[Message] = field(default_factory=list)
    kills: int = 0
    mid_job: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.backend = Backend(self.data)
        self.completions = Completions(self.data / "pawfect.db")

    async def run(self, kills: int) -> dict[str, object]:
        started = time.monotonic()
        while self.kills < kills:
            service = await self._start()
            pushes = await self._publish(service)
            await self._await_engine()
            await asyncio.sleep(self.random.uniform(0, ENGINE_S))
            await self._kill(service)
            await asyncio.gather(*pushes, return_exceptions=True)
            print(
                f"kill {self.kills:>3}: {self.completions.count('completed')} of {len(self.messages)} completed",
                flush=True,
            )
        service = await self._start()
        await self._settle(service)
        service.stop()
        return {
            **await self._judge(),
            "kills": self.kills,
            "mid_job": self.mid_job,
            "wall_s": round(time.monotonic() - started),
        }

    async def _start(self) -> ServiceProcess:
        service = ServiceProcess(self.data, self.log, environment=ENVIRONMENT)
        service.start()
        await service.wait_ready()
        return service

    async def _publish(self, service: ServiceProcess) -> list[asyncio.Task[None]]:
        """New sessions, and everything older that was not acknowledged; older ones are finished before a new kill, so
        that no job meets the limit of three crashes, which would rightly fail it."""
        photo, mask = (SAMPLE / "original.jpg").read_bytes(), (SAMPLE / "mask_auto.png").read_bytes()
        await self._settle(service)
        for _ in range(SESSIONS_PER_ROUND):
            message = Message(Session("chaos", f"s{len(self.messages)}"), f"m{len(self.messages)}")
            await self.backend.create(message.session, photo, mask)
            self.messages.append(message)
        return [asyncio.create_task(_push(service, message)) for message in self.messages if not message.acknowledged]

    async def _settle(self, service: ServiceProcess) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while open_messages := [message for message in self.messages if not message.acknowledged]:
                await asyncio.gather(*(_push(service, message) for message in open_messages))
        for message in self.messages:
            if message.first_generation is None:
                message.first_generation = await self.backend.generation(message.session.edited_path)

    async def _await_engine(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not await self._in_engine():
                await asyncio.sleep(0.02)

    async def _in_engine(self) -> bool:
        for message in self.messages[-SESSIONS_PER_ROUND:]:
            document = await self.backend.read(message.session) or {}
            if (document.get("progress") or {}).get("stage") == "engine":
                return True
        return False

    async def _kill(self, service: ServiceProcess) -> None:
        self.mid_job += await self._in_engine()
        kill_tree(service.pid)
        self.kills += 1

    async def _judge(self) -> dict[str, object]:
        lost = rewritten = 0
        for message in self.messages:
            document = await self.backend.read(message.session) or {}
            generation = await self.backend.generation(message.session.edited_path)
            done = document.get("processingStatus") == "completed" and generation and message.acknowledged
            lost += not done
            rewritten += bool(done) and generation != message.first_generation
        self.backend.close()
        return {
            "messages": len(self.messages),
            "lost": lost,
            "double_effects": self.completions.count_repeated() + rewritten,
            "jobs_that_crashed": self.completions.count_crashed(),
            "dead_letters": self.completions.count_dead_letters(),
        }


async def _push(service: ServiceProcess, message: Message) -> None:
    data = {"userId": message.session.user_id, "sessionId": message.session.session_id}
    with contextlib.suppress(httpx.TransportError):
        async with Client(service.url) as client:
            message.acknowledged = await client.push(message.id, data) == 204


def kill_tree(pid: int) -> None:
    """SIGKILL a process and everything it started, so that nobody is left to clean up."""
    root = psutil.Process(pid)
    processes = [root, *root.children(recursive=True)]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pawfect-chaos-") as folder:
        chaos = Chaos(Path(folder) / "data", Path(folder) / "service.log", options.seed)
        result = asyncio.run(chaos.run(options.kills))
    for name, value in result.items():
        print(f"{name:>20}: {value}")
    print(json.dumps({"chaos": "local", **result}))


if __name__ == "__main__":
    main()
