"""What the client sends where."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pawfect.client import Client


class Host(BaseHTTPRequestHandler):
    asked: list[tuple[str, str, str | None, bytes]]

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.asked.append((self.command, self.path, self.headers.get("Authorization"), body))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_PUT = do_POST = _answer  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[tuple[str, type[Host]]]:
    kind = type("OneHost", (Host,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", kind
    server.shutdown()
    server.server_close()


async def test_the_key_goes_to_the_service_and_not_where_its_links_lead(host: tuple[str, type[Host]]) -> None:
    url, kind = host
    ticket = {"method": "PUT", "upload_url": f"{url}/bucket/photo", "headers": {"Content-Type": "image/jpeg"}}
    async with Client(url, "pk_secret") as client:
        await client.get_headshot("headshot-1")
        await client.start_headshot("headshot-1", "headshot-1/original/photo.jpg")
        await client.fetch(f"{url}/bucket/print.png")
        await client.upload(ticket, b"photo")
    assert [(method, path, key) for method, path, key, _ in kind.asked] == [
        ("GET", "/headshot/headshot-1", "Bearer pk_secret"),
        ("POST", "/headshot-async", "Bearer pk_secret"),
        ("GET", "/bucket/print.png", None),
        ("PUT", "/bucket/photo", None),
    ]
    assert kind.asked[-1][3] == b"photo"
