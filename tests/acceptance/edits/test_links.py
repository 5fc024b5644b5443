"""Links to files on the real service, through Serve's proxy: their query has to arrive as it was signed."""

from __future__ import annotations

import asyncio
import random
import socket
from urllib.parse import urlsplit

import httpx
import pytest

from serve_app.photos.service_links import ServiceLinks
from serve_app.settings import Settings
from serve_app.settings_headshots import LinkSettings
from serve_app.stores import open_service_links
from tests.acceptance.edits.conftest import Running

pytestmark = pytest.mark.serve

PATH = "headshots/originals/job-links/original/Rex ü (1) & Co.heic"


def open_links(service: Running, **lifetimes: int) -> ServiceLinks:
    """As another process of the same installation has them: with the key on disk."""
    links = LinkSettings(public_url=service.process.url, **lifetimes)
    return open_service_links(Settings(data_dir=service.data, links=links))


async def test_an_upload_and_a_download_through_the_proxy(service: Running) -> None:
    links = open_links(service)
    data = random.Random(0).randbytes(3_000_000)
    async with httpx.AsyncClient(timeout=30) as http:
        upload = await links.sign_upload(PATH, "image/heic", len(data))
        assert (await http.put(upload.url, content=data, headers=upload.headers)).status_code == 201
        assert (await http.put(upload.url, content=data, headers=upload.headers)).status_code == 409
        link = await links.sign_download(PATH, "image/heic", "Rex ü.heic")
        response = await http.get(link.url)
        assert (response.status_code, response.content) == (200, data)
        assert response.headers["content-type"] == "image/heic"
        head = await http.head(link.url)
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(data)))
        known = {"If-None-Match": response.headers["etag"]}
        assert (await http.get(link.url, headers=known)).status_code == 304
        for changed in (link.url + "0", link.url.replace("expires=1", "expires=2"), link.url.replace("Rex", "Max")):
            assert (await http.get(changed)).status_code == 403
        assert (await http.get(link.url, headers={"Origin": "https://evil.example"})).status_code == 403


async def test_a_link_ends_in_time(service: Running) -> None:
    link = await open_links(service, download_ttl_s=1).sign_download(PATH, "image/heic", "x")
    await asyncio.sleep(1.1)
    async with httpx.AsyncClient() as http:
        assert (await http.get(link.url)).status_code == 410


async def test_an_upload_that_breaks_off_leaves_nothing_and_can_be_repeated(service: Running) -> None:
    upload = await open_links(service).sign_upload("headshots/originals/job-broken/x.heic", "image/heic", 1_000_000)
    url = urlsplit(upload.url)
    head = f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/heic\r\n"
    with socket.create_connection(("127.0.0.1", service.process.port)) as connection:
        connection.sendall(f"{head}Content-Length: 900000\r\n\r\n".encode() + bytes(300_000))
        await asyncio.sleep(0.5)
    await asyncio.sleep(0.5)
    assert not (service.data / "photos" / "headshots" / "originals" / "job-broken").exists()
    async with httpx.AsyncClient() as http:
        assert (await http.put(upload.url, content=b"whole", headers=upload.headers)).status_code == 201
