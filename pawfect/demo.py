"""The main jobs once, from the outside: a session, its push, its progress, its result; a photo and its headshot."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
import uuid
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from pawfect.client import Client
from pawfect.pictures import before_after
from pawfect.service_process import ServiceDied, ServiceProcess
from pawfect.sessions import Backend
from serve_app.jobs.model import Session

SAMPLE = Path(__file__).parent / "sample"
POLL_S = 0.2


Work = Callable[[str, Path], Coroutine[Any, Any, bool]]
"""What is done with the service at a URL, which keeps its data in a folder; whether that went well."""


def edit(photo: Path, mask: Path, out: Path) -> int:
    """The exit status: 0 only if the edit completed."""
    return run(out, lambda url, data_dir: _edit(url, data_dir, photo, mask, out))


def make_headshot(photo: Path, out: Path) -> int:
    """The exit status: 0 only if there is a headshot."""
    return run(out, lambda url, _: _make_headshot(url, photo, out))


def run(out: Path, work: Work) -> int:
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pawfect-demo-") as data:
        service = ServiceProcess(Path(data), out / "service.log")
        print("starting the service …", flush=True)
        started = time.monotonic()
        try:
            with service:
                asyncio.run(service.wait_ready())
                print(f"ready after {time.monotonic() - started:.1f} s at {service.url}", flush=True)
                completed = asyncio.run(work(service.url, Path(data)))
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


async def _make_headshot(url: str, photo: Path, out: Path) -> bool:
    async with Client(url) as client:
        started = time.monotonic()
        answer = await client.make_headshot(photo.read_bytes(), photo.name)
        body = answer.json()
        if answer.status_code != httpx.codes.OK:
            print(f"there is no headshot: {body.get('detail', body)}")
            return False
        print(f"a headshot after {time.monotonic() - started:.1f} s; its photo: {json.dumps(body['quality'])}")
        for name in ("preview", "print"):
            found = await client.fetch(body[f"{name}_url"])
            if found.status_code != httpx.codes.OK:
                print(f"the {name} cannot be fetched: {found.text}")
                return False
            (out / f"{name}.png").write_bytes(found.content)
    print(f"look at {out / 'preview.png'} and {out / 'print.png'}")
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
