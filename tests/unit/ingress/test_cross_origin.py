"""Pages of other sites: which may call, and what their browsers are told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ingress.api_keys import ApiKeys
from ingress.auth import KeyedCalls, LocalTrust, choose_trust
from serve_app.clock import SystemClock
from serve_app.settings import Settings
from serve_app.settings_sections import CallerSettings
from tests.api import Api, expect_problem, open_api

SHOP = "https://shop.example"
OTHERS = (
    "https://evil.example",
    "http://shop.example",
    "https://shop.example:8443",
    "https://shop.example.evil.example",
    "https://evilshop.example",
    "https://SHOP.example",
    "https://shop.example/",
    "https://www.shop.example",
    "null",
    "*",
)
EDIT = "/v1/users/user/sessions/session/edit"


@asynccontextmanager
async def open_shop(
    root: Path, origins: tuple[str, ...] = (SHOP, "http://localhost:3000"), **more: Any
) -> AsyncIterator[Api]:
    settings = {"allowed_origins": origins}
    trust = more.pop("trust", None) or choose_trust(Settings(allowed_origins=origins), SystemClock(), {})
    async with open_api(root, ingress=settings, trust=trust, **more) as api:
        yield api


def expect_told(response: httpx.Response, origin: str = SHOP) -> None:
    assert response.headers["access-control-allow-origin"] == origin
    assert "origin" in response.headers["vary"].lower()
    assert "access-control-allow-credentials" not in response.headers


def expect_silence(response: httpx.Response) -> None:
    for name in ("access-control-allow-origin", "access-control-allow-credentials"):
        assert name not in response.headers


async def ask(api: Api, path: str, method: str, headers: str = "", origin: str = SHOP) -> httpx.Response:
    """A preflight."""
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    return await api.http.options(
        path, headers=asked | ({"Access-Control-Request-Headers": headers} if headers else {})
    )


@pytest.mark.parametrize("origin", [SHOP, "http://localhost:3000"])
async def test_a_page_that_is_allowed_calls_and_reads(tmp_path: Path, origin: str) -> None:
    async with open_shop(tmp_path) as api:
        await api.bench.put_session()
        response = await api.http.post(EDIT, headers={"Origin": origin})
        assert response.status_code == 200
        expect_told(response, origin)
        exposed = set(response.headers["access-control-expose-headers"].split(", "))
        assert {"Location", "Retry-After", "ETag"} <= exposed


@pytest.mark.parametrize(
    ("path", "method", "headers"),
    [
        ("/v1/jobs", "POST", "authorization,content-type,idempotency-key"),
        ("/v1/jobs/job-1", "DELETE", "authorization"),
        ("/v1/jobs/job-1/events", "GET", "accept, authorization, last-event-id"),
        ("/v1/jobs/job-1/result", "GET", "if-none-match"),
        ("/files/headshots/a.heic", "PUT", "content-type"),
        ("/nothing", "GET", ""),
    ],
)
async def test_its_browser_may_send_what_the_interface_needs(
    tmp_path: Path, path: str, method: str, headers: str
) -> None:
    async with open_shop(tmp_path, start=False) as api:
        response = await ask(api, path, method, headers)
        assert response.status_code == 200
        expect_told(response)
        assert method in response.headers["access-control-allow-methods"].split(", ")


async def test_it_may_not_send_what_nobody_needs(tmp_path: Path) -> None:
    async with open_shop(tmp_path, start=False) as api:
        assert (await ask(api, "/v1/jobs", "PATCH")).status_code == 400
        assert (await ask(api, "/v1/jobs", "POST", "cookie")).status_code == 400


@pytest.mark.parametrize("origin", OTHERS)
async def test_other_pages_are_refused_by_service_and_browser(tmp_path: Path, origin: str) -> None:
    async with open_shop(tmp_path) as api:
        await api.bench.put_session()
        for path in (EDIT, "/files/x"):
            response = await api.http.get(path, headers={"Origin": origin})
            expect_problem(response, 403, "forbidden")
            expect_silence(response)
        response = await ask(api, EDIT, "POST", origin=origin)
        assert response.status_code == 400
        expect_silence(response)
        expect_silence(await api.http.get("/health", headers={"Origin": origin}))
        assert (await api.bench.stores.jobs.backlog(0.0)).queued == 0


async def test_who_names_no_origin_is_served_as_ever(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as api:
        await api.bench.put_session()
        response = await api.http.post(EDIT)
        assert response.status_code == 200
        expect_silence(response)


async def test_an_allowed_origin_opens_nothing_to_another_machine(tmp_path: Path) -> None:
    async with open_shop(tmp_path, start=False) as api:
        response = await api.http.get(EDIT, headers={"Origin": SHOP, "Host": "pets.example"})
        expect_problem(response, 403, "forbidden")
        expect_told(response)


async def test_without_allowed_origins_nothing_is_told(tmp_path: Path) -> None:
    async with open_shop(tmp_path, origins=()) as api:
        await api.bench.put_session()
        response = await api.http.get(EDIT, headers={"Origin": SHOP})
        expect_problem(response, 403, "forbidden")
        expect_silence(response)
        response = await ask(api, EDIT, "POST")
        assert response.status_code == 405
        expect_silence(response)
        expect_silence(await api.http.post(EDIT, headers={"Origin": "http://localhost:3000"}))


async def test_errors_can_be_read_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = {"Origin": SHOP}
    async with open_shop(tmp_path, start=False) as api:
        await api.bench.put_session()
        for response, status in (
            (await api.http.get("/nothing", headers=page), 404),
            (await api.http.patch(EDIT, headers=page), 405),
            (await api.http.post(EDIT, content=bytes(2**20), headers=page), 413),
            (await api.http.post(EDIT, json={"steps": 0}, headers=page), 422),
            (await api.http.get("/files/x", headers=page), 403),
        ):
            assert response.status_code == status
            assert response.headers["content-type"] == "application/problem+json"
            expect_told(response)
        monkeypatch.setattr(api.bench.service, "submit", None)
        response = await api.http.post(EDIT, headers=page)
        expect_problem(response, 500, "internal")
        expect_told(response)


async def test_a_missing_key_can_be_read_about(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text("[]")

    trust = KeyedCalls(ApiKeys(CallerSettings(keys_file=file), SystemClock()), LocalTrust())
    async with open_shop(tmp_path, trust=trust, start=False) as api:
        headers = {"Origin": SHOP, "Authorization": f"Bearer pk_{'a' * 43}"}
        response = await api.http.get("/v1/jobs", headers=headers)
        expect_problem(response, 401, "unauthenticated")
        expect_told(response)


async def test_a_page_uploads_and_shows_a_file(tmp_path: Path) -> None:
    async with open_shop(tmp_path, start=False) as api:
        links = api.bench.stores.links
        upload = await links.sign_upload("headshots/a.png", "image/png", 10)
        page = {"Origin": SHOP}
        response = await api.http.put(upload.url, content=b"1", headers={**upload.headers, **page})
        assert response.status_code == 201
        expect_told(response)
        response = await api.http.get(
            (await links.sign_download("headshots/a.png", "image/png", "a")).url, headers=page
        )
        assert response.content == b"1"
        expect_told(response)


async def test_events_are_told_too(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as api:
        await api.bench.put_session()
        job = await api.bench.submit()
        await api.bench.finish(job)
        response = await api.http.get(f"/v1/jobs/{job.id}/events", headers={"Origin": SHOP})
        assert response.status_code == 200
        expect_told(response)


async def test_only_at_home_a_public_page_may_reach_into_a_private_network(tmp_path: Path) -> None:
    async with open_shop(tmp_path, start=False) as api:
        asked = {
            "Origin": SHOP,
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Private-Network": "true",
        }
        response = await api.http.options("/v1/jobs", headers=asked)
        assert response.headers["access-control-allow-private-network"] == "true"
    settings = {"allowed_origins": (SHOP,), "env": "gcp"}
    async with open_api(tmp_path, ingress=settings, start=False) as api:
        response = await api.http.options("/v1/jobs", headers=asked)
        assert "access-control-allow-private-network" not in response.headers
