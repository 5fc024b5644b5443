"""A hub with one repository and one commit, which speaks the real one's protocol over HTTP."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from serve_app.flux.spec import ModelSpec


@dataclass
class ModelHub:
    """`refuse(path)` gives status and X-Error-Code, or None to answer. `sent` is sent instead of the file that the hub
    tells of, `sizes` are told instead of the true ones."""

    spec: ModelSpec
    files: dict[str, bytes]
    refuse: Callable[[str], tuple[int, str] | None] = lambda _: None
    sent: dict[str, bytes] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.split("?")[0]
        self.requests.append((path, handler.headers["Authorization"]))
        if (refusal := self.refuse(path)) is not None:
            _send(handler, refusal[0], b"", {"X-Error-Code": refusal[1]})
        elif path == f"/api/models/{self.spec.repo}/tree/{self.spec.revision}":
            rows = [self._describe(name) for name in self.files]
            _send(handler, 200, json.dumps(rows).encode(), {"Content-Type": "application/json"})
        elif (name := path.removeprefix(self._prefix)) in self.files:
            etag = hashlib.sha256(self.files[name]).hexdigest()
            content = self.sent.get(name, self.files[name])
            _send(handler, 200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": self.spec.revision})
        else:
            _send(handler, 404, b"", {"X-Error-Code": "EntryNotFound"})

    def _describe(self, name: str) -> dict[str, Any]:
        """Weights lie in Git LFS, so that there is a sha256; the rest has git's name of its content."""
        content = self.files[name]
        size = self.sizes.get(name, len(content))
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324
        row: dict[str, Any] = {"type": "file", "path": name, "size": size, "oid": blob}
        if name.endswith(".safetensors"):
            row["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 134}
        return row

    @property
    def _prefix(self) -> str:
        return f"/{self.spec.repo}/resolve/{self.spec.revision}/"

    def asked_for(self) -> set[str]:
        return {path.removeprefix(self._prefix) for path, _ in self.requests if path.startswith(self._prefix)}


def _send(handler: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str]) -> None:
    handler.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(content))}.items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(content)


@contextmanager
def open_hub(spec: ModelSpec, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    here = ModelHub(spec, files)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here.answer(self)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        direct_to(f"http://127.0.0.1:{server.server_port}", monkeypatch)
        yield here
        server.shutdown()
        thread.join()
    huggingface_hub.close_session()


def direct_to(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT does, which is read only once. The client's pauses between its tries are left out."""
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.utils._http, "time", SimpleNamespace(sleep=lambda _: None))
