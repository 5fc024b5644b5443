"""How much memory the real Editor takes with 16 detailed 12-megapixel jobs in flight.

The whole service runs with Editor slots for all of them; the engine does them one by one, so that most of them wait as
they do behind a busy GPU. `editor_rss_mb` is the highest resident set of the Editor's process seen until all are done,
`editor_idle_mb` the same before the first job.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path

import psutil

from bench.photos import detailed_photo, leash_mask
from pawfect.client import Client
from pawfect.service_process import ServiceProcess
from pawfect.sessions import Backend
from serve_app.jobs.model import Session

JOBS = 16
SAMPLE_S = 0.05
PATIENCE_S = 480
ENVIRONMENT = {"PAWFECT_JOBS__SLOTS": str(JOBS + 1), "PAWFECT_JOBS__URGENT_SLOTS": "1"}
MB = 2**20


async def run() -> dict[str, float]:
    photo, mask = detailed_photo(4000, 3000), leash_mask(4000, 3000)
    with tempfile.TemporaryDirectory(prefix="pawfect-bench-") as folder:
        data = Path(folder) / "data"
        backend = Backend(data)
        sessions = [Session("bench", f"s{i}") for i in range(JOBS)]
        for session in sessions:
            await backend.create(session, photo, mask)
        with ServiceProcess(data, Path(folder) / "service.log", environment=ENVIRONMENT) as service:
            await service.wait_ready()
            editor = find_editor(service.pid)
            idle = editor.memory_info().rss
            peak, in_flight = await _watch(service, backend, sessions, editor)
        backend.close()
    return {
        "editor_rss_mb": round(peak / MB),
        "editor_idle_mb": round(idle / MB),
        "jobs_in_flight": in_flight,
        "photo_mb": round(len(photo) / MB, 1),
    }


async def _watch(
    service: ServiceProcess, backend: Backend, sessions: list[Session], editor: psutil.Process
) -> tuple[int, int]:
    """The Editor's highest resident set in bytes, and the most jobs seen waiting inside it or its engine at once."""
    peak = most = 0
    async with Client(service.url) as client, asyncio.timeout(PATIENCE_S):
        pushes = [
            asyncio.create_task(client.push(f"m{i}", {"userId": session.user_id, "sessionId": session.session_id}))
            for i, session in enumerate(sessions)
        ]
        while not all(push.done() for push in pushes):
            peak = max(peak, editor.memory_info().rss)
            documents = [await backend.read(session) or {} for session in sessions]
            most = max(most, sum((document.get("progress") or {}).get("stage") == "engine" for document in documents))
            await asyncio.sleep(SAMPLE_S)
        assert {push.result() for push in pushes} == {204}
    for session in sessions:
        assert (await backend.read(session) or {})["processingStatus"] == "completed"
    return peak, most


def find_editor(service: int) -> psutil.Process:
    """The process of the Editor's replica, which Ray names after its deployment."""
    for process in psutil.Process(service).children(recursive=True):
        if "ServeReplica:pawfect:Editor" in " ".join(process.cmdline()):
            return process
    raise LookupError("no Editor runs")


def main() -> None:
    result = asyncio.run(run())
    for name, value in result.items():
        print(f"{name:>16}: {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
