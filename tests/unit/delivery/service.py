"""A service on a port of its own that answers what it is told to, with real pictures."""

from __future__ import annotations

import io
import json
import threading
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from delivery.canary import load_canary

NEW, OLD = "a" * 40, "b" * 40
WAITING = {"status": "processing", "progress": {"stage": "engine", "step": 0, "decoding": False}}
READY = {"ready": True, "state": "ready"}


@dataclass
class FakeService:
    """`refusals` are answered to requests for jobs, the last for ever if `is_stuck`; `jobs` are what becomes of those
    that are accepted, the last of all further ones: a version that edits it, or how the job stays."""

    refusals: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    jobs: list[str | dict[str, Any] | None] = field(default_factory=lambda: [NEW])
    is_stuck: bool = False
    ready: dict[str, Any] = field(default_factory=lambda: dict(READY))
    asked: list[tuple[str, int]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    def accept(self, key: str, seed: int) -> tuple[int, dict[str, Any]]:
        if self.refusals:
            return self.refusals[0] if self.is_stuck else self.refusals.pop(0)
        self.asked.append((key, seed))
        return 202, self.show(len(self.asked) - 1)

    def find(self, number: int) -> str | dict[str, Any] | None:
        return self.jobs[min(number, len(self.jobs) - 1)]

    def show(self, number: int) -> dict[str, Any]:
        found = self.find(number)
        return {"job_id": f"job-{number}", **(found if isinstance(found, dict) else {"status": "completed"})}


class Handler(BaseHTTPRequestHandler):
    service: ClassVar[FakeService]
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        status, data = self._answer(body)
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, body: bytes) -> tuple[int, bytes]:
        service = self.service
        number = int(self.path.partition("job-")[2].partition("/")[0] or 0)
        if self.path.endswith("/result"):
            version = service.find(number)
            assert not isinstance(version, dict)
            return 200, draw_edit(version)
        if self.path == "/v1/jobs":
            service.tokens.append(self.headers["authorization"])
            status, document = service.accept(self.headers["idempotency-key"], json.loads(body)["seed"])
        elif self.path == "/health":
            status, document = 200, {"status": "alive", "version": NEW}
        elif self.path == "/ready":
            status, document = 200 if service.ready["ready"] else 503, service.ready
        else:
            status, document = 200, service.show(number)
            if self.command == "DELETE":
                service.cancelled.append(self.path)
        return status, json.dumps(document).encode()


class Serving:
    """The service while it is served, at `url`."""

    def __init__(self, service: FakeService) -> None:
        handler = type("BoundHandler", (Handler,), {"service": service})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Serving:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@cache
def draw_edit(version: str | None) -> bytes:
    """The sample with what is masked painted green, by that version."""
    canary = load_canary()
    photo, mask = Image.open(io.BytesIO(canary.photo)), Image.open(io.BytesIO(canary.mask))
    photo.paste((90, 160, 90), mask=mask.point([255 * (value > 127) for value in range(256)]))
    told, out = PngInfo(), io.BytesIO()
    if version is not None:
        told.add_text("Software", f"Pawfect {version}")
    photo.save(out, "PNG", pnginfo=told, compress_level=1)
    return out.getvalue()
