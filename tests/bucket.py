"""A stand-in for Cloud Storage that checks generations, which the emulator does not do, and breaks on demand.

It speaks the few calls of the JSON API that the service makes (https://cloud.google.com/storage/docs/json_api):
metadata, download of one generation with ranges, multipart and resumable upload with `ifGenerationMatch`, deletion.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c


class Fault(Enum):
    BUSY = "answered 503"
    FORBIDDEN = "answered 403"
    LOST_ANSWER = "done, and the connection closed without an answer"
    HALF = "half of the body, then the connection closed"
    TRICKLE = "a little now and then"
    SILENCE = "no answer until the end of the test"


@dataclass(frozen=True)
class StoredVersion:
    data: bytes
    generation: int
    content_type: str
    encoding: str | None = None


class Bucket:
    """`faults` happen to the next requests, one each, None for none. `requests` are "METHOD kind", in order, and "sent"
    for a trickle that came to its end."""

    def __init__(self, name: str = "photos") -> None:
        self.name = name
        self.objects: dict[str, StoredVersion] = {}
        self.faults: deque[Fault | None] = deque()
        self.requests: list[str] = []
        self.before_download: deque[tuple[str, bytes]] = deque()
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._generations = itertools.count(1_700_000_000_000_001)
        self.uploads: dict[str, dict[str, Any]] = {}

    def put(self, path: str, data: bytes, encoding: str | None = None) -> StoredVersion:
        with self._lock:
            return self._put(path, data, "image/jpeg", encoding)

    def put_if(self, path: str, data: bytes, content_type: str, expected: int | None) -> StoredVersion | None:
        """None when the precondition does not hold."""
        with self._lock:
            found = self.objects.get(path)
            if expected is not None and (found.generation if found else 0) != expected:
                return None
            return self._put(path, data, content_type)

    def _put(self, path: str, data: bytes, content_type: str, encoding: str | None = None) -> StoredVersion:
        self.objects[path] = StoredVersion(data, next(self._generations), content_type, encoding)
        return self.objects[path]

    def describe(self, path: str, version: StoredVersion) -> dict[str, Any]:
        return {
            "kind": "storage#object",
            "name": path,
            "bucket": self.name,
            "generation": str(version.generation),
            "size": str(len(version.data)),
            "contentType": version.content_type,
            "crc32c": base64.b64encode(google_crc32c.Checksum(version.data).digest()).decode(),
            "md5Hash": base64.b64encode(hashlib.md5(version.data, usedforsecurity=False).digest()).decode(),
        }


@contextmanager
def serve(bucket: Bucket) -> Iterator[str]:
    """The URL the bucket is to be had at."""
    handler = type("Handler", (_Handler,), {"bucket": bucket})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        bucket.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Clients that have given up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    bucket: Bucket

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._read_url()
        *_, name, _, path = self.parts
        media = self.query.get("alt") == "media"
        fault = self._begin("download" if media else "metadata")
        if fault in (Fault.BUSY, Fault.FORBIDDEN, Fault.SILENCE):
            self._refuse(fault)
            return
        if media and self.bucket.before_download:
            self.bucket.put(*self.bucket.before_download.popleft())
        found = self.bucket.objects.get(path)
        wanted = self.query.get("generation")
        if name != self.bucket.name:
            self._fail(404, "The specified bucket does not exist.")
        elif found is None or (wanted is not None and int(wanted) != found.generation):
            self._fail(404, f"No such object: {name}/{path}")
        elif media:
            self._send_content(found, fault)
        else:
            self._answer(200, self.bucket.describe(path, found))

    def do_DELETE(self) -> None:
        self._read_url()
        *_, name, _, path = self.parts
        fault = self._begin("object")
        if fault in (Fault.BUSY, Fault.FORBIDDEN, Fault.SILENCE):
            self._refuse(fault)
            return
        found = self.bucket.objects.pop(path, None) if name == self.bucket.name else None
        if fault is Fault.LOST_ANSWER:
            self.close_connection = True
        elif name != self.bucket.name:
            self._fail(404, "The specified bucket does not exist.")
        elif found is None:
            self._fail(404, f"No such object: {name}/{path}")
        else:
            self._answer(204, None)

    def do_POST(self) -> None:
        self._read_url()
        kind = self.query["uploadType"]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fault = self._begin(kind)
        if fault in (Fault.BUSY, Fault.FORBIDDEN, Fault.SILENCE):
            self._refuse(fault)
        elif self.parts[-2] != self.bucket.name:
            self._fail(404, "The specified bucket does not exist.")
        elif kind == "resumable":
            session = f"session-{len(self.bucket.uploads)}"
            content_type = self.headers["X-Upload-Content-Type"]
            self.bucket.uploads[session] = {**json.loads(body), "contentType": content_type, **self.query}
            self._answer(200, {}, Location=f"http://{self.headers['Host']}/resume/{session}")
        else:
            metadata, content_type, data = _split(body)
            self._store({**metadata, "contentType": content_type, **self.query}, data, fault)

    def do_PUT(self) -> None:
        self._read_url()
        data = self.rfile.read(int(self.headers["Content-Length"]))
        fault = self._begin("chunk")
        if fault in (Fault.BUSY, Fault.FORBIDDEN, Fault.SILENCE):
            self._refuse(fault)
            return
        self._store(self.bucket.uploads[self.parts[-1]], data, fault)

    def _store(self, upload: dict[str, Any], data: bytes, fault: Fault | None) -> None:
        condition = upload.get("ifGenerationMatch")
        expected = None if condition is None else int(condition)
        stored = self.bucket.put_if(upload["name"], data, upload["contentType"], expected)
        if fault is Fault.LOST_ANSWER:
            self.close_connection = True
        elif stored is None:
            self._fail(412, "At least one of the pre-conditions you specified did not hold.")
        else:
            self._answer(200, self.bucket.describe(upload["name"], stored))

    def _read_url(self) -> None:
        url = urlsplit(self.path)
        self.parts = [unquote(part) for part in url.path.split("/")]
        self.query = {name: values[0] for name, values in parse_qs(url.query).items()}

    def _begin(self, kind: str) -> Fault | None:
        self.bucket.requests.append(f"{self.command} {kind}")
        return self.bucket.faults.popleft() if self.bucket.faults else None

    def _refuse(self, fault: Fault) -> None:
        if fault is Fault.SILENCE:
            self.bucket.closing.wait()
        else:
            self._fail(503 if fault is Fault.BUSY else 403, "secret@account does not have storage.objects.get access")

    def _send_content(self, found: StoredVersion, fault: Fault | None) -> None:
        first = int(self.headers["Range"].removeprefix("bytes=").split("-")[0]) if "Range" in self.headers else 0
        data = found.data[first:]
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(data)))
        if found.encoding is not None:
            self.send_header("Content-Encoding", found.encoding)
        self.end_headers()
        if fault is Fault.TRICKLE:
            for position in range(0, len(data), 10_000):
                if self.bucket.closing.wait(0.02):
                    return
                self.wfile.write(data[position : position + 10_000])
            self.bucket.requests.append("sent")
        else:
            self.wfile.write(data[: len(data) // 2] if fault is Fault.HALF else data)

    def _fail(self, status: int, message: str) -> None:
        self._answer(status, {"error": {"code": status, "message": message}})

    def _answer(self, status: int, content: dict[str, Any] | None, **headers: str) -> None:
        body = json.dumps(content).encode() if content is not None else b""
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _split(body: bytes) -> tuple[dict[str, Any], str, bytes]:
    """The metadata, content type and content of a multipart/related upload of exactly these two parts."""
    boundary = body[: body.index(b"\r\n")]
    _, first, second, _ = body.split(boundary)
    metadata = json.loads(first.partition(b"\r\n\r\n")[2])
    headers, _, content = second.partition(b"\r\n\r\n")
    content_type = headers.strip().partition(b"content-type: ")[2].decode()
    return metadata, content_type, content.removesuffix(b"\r\n")
