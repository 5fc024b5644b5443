"""The main job once, from the outside: a session, its push, its progress, its result."""

from __future__ import annotations

import asyncio
import tempfile
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

from pawfect.client import Client
from pawfect.pictures import before_after
from pawfect.service_process import ServiceDied, ServiceProcess
from pawfect.sessions import Backend
from serve_app.jobs.model import Session

SAMPLE = Path(__file__).parent / "sample"
POLL_S = 0.2


def run(photo: Path, mask: Path, out: Path) -> int:
    """The exit status: 0 only if the edit completed."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pawfect-demo-") as data:
        service = ServiceProcess(Path(data), out / "service.log")
        print("starting the service …", flush=True)
        started = time.monotonic()
        try:
            with service:
                asyncio.run(service.wait_ready())
                print(f"ready after {time.monotonic() - started:.1f} s at {service.url}", flush=True)
                completed = asyncio.run(_edit(service.url, Path(data), photo, mask, out))
                print("stopping the service …", flush=True)
        except ServiceDied as error:
            print(error)
            return 1
    return 0 if completed else 1


async def _edit(url: str, data_dir: Path, photo: Path, mask: Path, out: Path) -> bool:
    session = Session("demo-user", f"demo-{uuid.uuid4().hex[:8]}")
    backend = Backend(data_dir)
    await backend.create(session, photo.read_bytes(), mask.read_bytes())
    async with Client(url) as client:
        published = datetime.now(UTC).isoformat()
        message = {"userId": session.user_id, "sessionId": session.session_id}
        push = asyncio.create_task(client.push(f"demo-{uuid.uuid4().hex}", message, publishTime=published))
        print(f"pushed session {session.path}", flush=True)
        await _show_progress(client, session, push)
        status = await push
    await backend.export(session, out)
    document = await backend.read(session) or {}
    backend.close()
    if document.get("processingStatus") != "completed":
        print(f"push answered {status}, but the edit failed: {document.get('errorMessage')}")
        return False
    picture = before_after(photo.read_bytes(), mask.read_bytes(), (out / "edited.jpg").read_bytes())
    (out / "before_after.png").write_bytes(picture)
    print(f"push answered {status}; look at {out / 'before_after.png'}")
    return True


async def _show_progress(client: Client, session: Session, push: asyncio.Task[int]) -> None:
    shown = ""
    while not push.done():
        await asyncio.wait({push}, timeout=POLL_S)
        view = (await client.show(session.user_id, session.session_id)).json()
        line = str(view.get("processingStatus"))
        if progress := view.get("progress"):
            line += f": {progress['stage']}" + (f" {progress['step']}/{progress['steps']}" if progress["steps"] else "")
        if line != shown:
            print(f"  {line}", flush=True)
            shown = line
