"""`/files/`: what a link that the service signed lets its holder do, and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ingress.limits import BodyLimit
from serve_app.errors import StoreUnavailable
from serve_app.photos.links import Link, UploadLink
from serve_app.photos.store import ABSENT
from serve_app.settings import Settings
from serve_app.settings_headshots import LinkSettings
from serve_app.settings_sections import PhotoSettings
from serve_app.stores import open_service_links
from tests.api import Api, expect_problem, open_api

PATH = "headshots/outputs/job-1/outputs/print ü.png"
DATA = b"\x89PNG and so on"
HEIC = {"Content-Type": "image/heic"}


async def put(api: Api, path: str = PATH, data: bytes = DATA) -> Link:
    await api.bench.stores.photos.write(path, data, content_type="image/png", expected=ABSENT)
    return await api.bench.stores.links.sign_download(path, "image/png", "print.png")


async def sign_upload(
    api: Api, path: str = "headshots/originals/job-1/original/dog.heic", size: int = 1000
) -> UploadLink:
    return await api.bench.stores.links.sign_upload(path, "image/heic", size)


def inside(url: str) -> str:
    """The same on the application that has no port."""
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


def as_it_is(target: str) -> httpx.Request:
    """Without the changes that the client makes to a URL."""
    return httpx.Request("GET", httpx.URL("http://localhost", raw_path=target.encode()))


async def test_a_link_sends_the_file_as_it_was_signed(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        link = await put(api)
        assert link.url.startswith("http://127.0.0.1:8000/files/headshots/outputs/job-1/outputs/print%20%C3%BC.png?")
        response = await api.http.get(inside(link.url))
        assert (response.status_code, response.content) == (200, DATA)
        headers = dict(response.headers)
        age = int(headers.pop("cache-control").removeprefix("private, max-age="))
        assert 3590 < age <= 3600
        assert headers == {
            "content-type": "image/png",
            "content-length": str(len(DATA)),
            "content-disposition": 'inline; filename="print.png"',
            "etag": headers["etag"],
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
        }


async def test_text_is_sent_without_a_charset_that_nobody_signed(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        await put(api)
        link = await api.bench.stores.links.sign_download(PATH, "text/plain", "a.txt")
        assert (await api.http.get(inside(link.url))).headers["content-type"] == "text/plain"


async def test_head_says_the_same_without_the_file(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        url = inside((await put(api)).url)
        head, full = await api.http.head(url), await api.http.get(url)
        assert (head.status_code, head.content) == (200, b"")
        ignored = {"cache-control"}
        assert {k: v for k, v in head.headers.items() if k not in ignored} == {
            k: v for k, v in full.headers.items() if k not in ignored
        }


async def test_who_has_the_file_gets_304(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        url = inside((await put(api)).url)
        tag = (await api.http.get(url)).headers["etag"]
        for known in (tag, f'"other", W/{tag}', "*"):
            response = await api.http.get(url, headers={"If-None-Match": known})
            assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", tag)
        assert (await api.http.get(url, headers={"If-None-Match": '"other"'})).status_code == 200


async def test_a_file_that_is_not_there_is_404(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        link = await api.bench.stores.links.sign_download("headshots/none.png", "image/png", "none.png")
        body = expect_problem(await api.http.get(inside(link.url)), 404, "not_found")
        assert "none.png" in body["detail"]


async def test_a_changed_link_is_403_whatever_lies_there(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        url = inside((await put(api)).url)
        for changed in (
            url.replace("print.png", "other.png"),
            url.replace("/job-1/", "/job-2/"),
            url.replace("/outputs/print", "/outputs/%2e%2e/outputs/print"),
            url + "0",
            url.partition("?")[0],
            "/files/%2e%2e/link.key?" + url.partition("?")[2],
            "/files/",
        ):
            body = expect_problem(await api.http.send(as_it_is(changed)), 403, "forbidden")
            assert body["detail"] == "This link was not signed by this service, or was changed."


async def test_an_expired_link_is_410(tmp_path: Path) -> None:
    links = LinkSettings(download_ttl_s=1)
    async with open_api(tmp_path, start=False) as api:
        await put(api)
        link = await open_service_links(Settings(data_dir=tmp_path, links=links)).sign_download(PATH, "image/png", "x")
        await asyncio.sleep(1.1)
        body = expect_problem(await api.http.get(inside(link.url)), 410, "gone")
        assert body["detail"] == "This link has expired; ask for a new one."


async def test_a_download_link_uploads_nothing(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        link = await put(api)
        expect_problem(await api.http.put(inside(link.url), content=b"x", headers=HEIC), 403, "forbidden")
        upload = await sign_upload(api)
        expect_problem(await api.http.get(inside(upload.url)), 403, "forbidden")
        assert (await api.http.delete(inside(link.url))).status_code == 405


async def test_an_upload_works_once(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        link = await sign_upload(api)
        assert (link.method, link.headers) == ("PUT", HEIC)
        response = await api.http.put(inside(link.url), content=DATA, headers=link.headers)
        assert (response.status_code, response.content) == (201, b"")
        found = await api.bench.stores.photos.read("headshots/originals/job-1/original/dog.heic", max_bytes=100)
        assert (found.data, f'"{found.generation}"') == (DATA, response.headers["etag"])
        body = expect_problem(await api.http.put(inside(link.url), content=b"other", headers=HEIC), 409, "conflict")
        assert "works once" in body["detail"]
        assert (
            await api.bench.stores.photos.read("headshots/originals/job-1/original/dog.heic", max_bytes=100)
        ) == found


async def test_of_two_uploads_at_once_one_wins(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        link = await sign_upload(api)
        answers = await asyncio.gather(
            *(api.http.put(inside(link.url), content=bytes([i]) * 500, headers=HEIC) for i in range(5))
        )
        assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]
        winner = next(i for i, answer in enumerate(answers) if answer.status_code == 201)
        found = await api.bench.stores.photos.read("headshots/originals/job-1/original/dog.heic", max_bytes=1000)
        assert found.data == bytes([winner]) * 500


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "image/png"},
        {"Content-Type": ""},
        {"Content-Type": "image/heic; x=y"},
        {**HEIC, "Content-Encoding": "gzip"},
    ],
)
async def test_another_type_is_415_and_nothing_is_stored(tmp_path: Path, headers: dict[str, str]) -> None:
    async with open_api(tmp_path, start=False) as api:
        link = await sign_upload(api)
        response = await api.http.put(inside(link.url), content=DATA, headers=headers)
        expect_problem(response, 415, "unsupported_media_type")
        assert (await api.http.put(inside(link.url), content=DATA, headers=HEIC)).status_code == 201


@pytest.mark.parametrize(("size", "limit"), [(1001, 1000), (2048, 10_000)])
@pytest.mark.parametrize("announced", [True, False])
async def test_more_bytes_than_signed_or_configured_are_413(
    tmp_path: Path, size: int, limit: int, announced: bool
) -> None:
    settings = {"photos": PhotoSettings(max_bytes=1024)}
    async with open_api(tmp_path, start=False, ingress=settings) as api:
        link = await sign_upload(api, size=limit)

        async def drip() -> AsyncIterator[bytes]:
            yield bytes(size - 1)
            yield b"1"

        content: Any = bytes(size) if announced else drip()
        response = await api.http.put(inside(link.url), content=content, headers=HEIC)
        expect_problem(response, 413, "request_entity_too_large")
        assert await api.bench.stores.photos.stat("headshots/originals/job-1/original/dog.heic") == ABSENT
        exact = bytes(min(limit, 1024))
        assert (await api.http.put(inside(link.url), content=exact, headers=HEIC)).status_code == 201


async def test_a_large_upload_is_let_through(tmp_path: Path) -> None:
    """The limit of bodies elsewhere is 64 KiB."""
    async with open_api(tmp_path, start=False) as api:
        link = await sign_upload(api, size=2**23)
        assert (await api.http.put(inside(link.url), content=bytes(2**23), headers=HEIC)).status_code == 201


@pytest.mark.parametrize(
    ("path", "limit"), [("/files/a/b", 200_000), ("/files/", 200_000), ("/files", 65_536), ("/filesa/b", 65_536)]
)
async def test_the_limit_of_bodies_is_for_all_below_a_path(path: str, limit: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = await Request(scope, receive).body()
        await Response(str(len(body)))(scope, receive, send)

    transport = httpx.ASGITransport(ExceptionMiddleware(BodyLimit(app, {"/files/": 200_000, "/b": 1})))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        assert (await http.put(path, content=bytes(limit))).text == str(limit)
        assert (await http.put(path, content=bytes(limit + 1))).status_code == 413
        assert (await http.put("/b", content=b"12")).status_code == 413


async def test_a_body_that_breaks_off_stores_nothing(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        link = await sign_upload(api)
        url = urlsplit(link.url)
        messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": b"half", "more_body": True},
            {"type": "http.disconnect"},
        ]
        sent: list[dict[str, Any]] = []
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "PUT", "scheme": "http",
            "path": url.path, "query_string": url.query.encode(), "root_path": "", "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000), "headers": [(b"content-type", b"image/heic"), (b"content-length", b"800")],
        }  # fmt: skip

        async def receive() -> dict[str, Any]:
            return messages.pop(0)

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        app: Any = api.http._transport
        await app.app(scope, receive, send)
        assert sent[0]["status"] == 422
        assert b"before the body did" in sent[1]["body"]
        assert await api.bench.stores.photos.stat("headshots/originals/job-1/original/dog.heic") == ABSENT
        assert not list((tmp_path / "photos" / ".uploads").iterdir())


async def test_a_stranger_makes_nobody_read_a_body(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        was_read = False

        async def drip() -> AsyncIterator[bytes]:
            nonlocal was_read
            was_read = True
            yield b"1"

        url = inside((await sign_upload(api)).url)
        expect_problem(await api.http.put(url + "0", content=drip(), headers=HEIC), 403, "forbidden")
        await api.http.put(url, content=DATA, headers=HEIC)
        expect_problem(await api.http.put(url, content=drip(), headers=HEIC), 409, "conflict")
        assert not was_read


async def test_a_store_that_does_not_answer_is_503(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_api(tmp_path, start=False) as api:
        url = inside((await put(api)).url)

        async def fail(*_: object, **__: object) -> None:
            raise StoreUnavailable("out for lunch.")

        monkeypatch.setattr(api.bench.stores.photos, "stat", fail)
        expect_problem(await api.http.get(url), 503, "store_unavailable")


@pytest.mark.parametrize("header", [{"Origin": "https://evil.example"}, {"Host": "evil.example"}])
async def test_locally_only_this_machine_is_served(tmp_path: Path, header: dict[str, str]) -> None:
    async with open_api(tmp_path, start=False) as api:
        url = inside((await put(api)).url)
        body = expect_problem(await api.http.get(url, headers=header), 403, "forbidden")
        assert "loopback" in body["detail"]
        upload = await sign_upload(api)
        expect_problem(await api.http.put(inside(upload.url), content=DATA, headers=HEIC | header), 403, "forbidden")


async def test_a_public_url_opens_the_links_to_the_world(tmp_path: Path) -> None:
    settings = {"links": LinkSettings(public_url="https://pets.example")}
    async with open_api(tmp_path, start=False, ingress=settings) as api:
        url = inside((await put(api)).url)
        stranger = {"Origin": "https://shop.example", "Host": "pets.example"}
        assert (await api.http.get(url, headers=stranger)).status_code == 200
        assert open_service_links(api.bench.settings.model_copy(update=settings))._base_url == "https://pets.example"


async def test_where_cloud_storage_signs_there_are_no_files_here(tmp_path: Path) -> None:
    class Elsewhere:
        async def sign_download(self, path: str, content_type: str, file_name: str) -> Link: ...

        async def sign_upload(self, path: str, content_type: str, max_bytes: int) -> UploadLink: ...

    async with open_api(tmp_path, start=False, links=Elsewhere()) as api:
        url = inside((await put(api)).url)
        for method in ("GET", "PUT"):
            body = expect_problem(await api.http.request(method, url), 404, "not_found")
            assert "Cloud Storage" in body["detail"]


async def test_the_openapi_document_describes_the_routes(tmp_path: Path) -> None:
    async with open_api(tmp_path, start=False) as api:
        described = (await api.http.get("/openapi.json")).json()["paths"]["/files/{path}"]
        assert set(described) == {"get", "head", "put"}
        for method, answers, query in (
            ("get", {"200", "304", "403", "404", "410", "503"}, {"expires", "type", "name", "signature"}),
            ("head", {"200", "304", "403", "404", "410", "503"}, {"expires", "type", "name", "signature"}),
            (
                "put",
                {"201", "403", "404", "408", "409", "410", "413", "415", "422", "503"},
                {"expires", "type", "limit", "signature"},
            ),
        ):
            assert answers <= set(described[method]["responses"])
            found = {entry["name"] for entry in described[method]["parameters"] if entry["in"] == "query"}
            assert found == query
        assert "requestBody" in described["put"]


async def test_a_path_may_be_spelled_in_every_way_that_means_the_same(tmp_path: Path) -> None:
    """Clients and proxies encode differently what need not be encoded (RFC 3986, section 6.2.2)."""
    async with open_api(tmp_path, start=False) as api:
        link = await put(api, "headshots/outputs/a (1)~'!*ü.png")
        path, _, query = inside(link.url).partition("?")
        for spelled in (path, path.replace("%28", "(").replace("%29", ")"), path.replace("%C3%BC", "%c3%bc")):
            assert (await api.http.send(as_it_is(f"{spelled}?{query}"))).status_code == 200
