"""Whatever is sent to the real service, it answers as its own OpenAPI document says, and never with a defect."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

from pawfect.demo import SAMPLE
from pawfect.sessions import Backend
from serve_app.jobs.model import Session
from tests.acceptance.documented import CHECKS, PATIENCE_S, DocumentedService
from tests.acceptance.edits.conftest import Running
from tests.photos import make_mask, make_photo

pytestmark = pytest.mark.serve

PER_OPERATION = os.environ.get("FUZZ_CASES", "20")
"""Random cases per operation beside the systematic ones, some 1,700; `make fuzz` takes 100."""


def test_random_requests_are_answered_as_documented(service: Running, tmp_path: Path) -> None:
    # A new seed each time: it is printed, and a failure can be replayed.
    command = [Path(sys.executable).with_name("schemathesis"), "run", f"{service.process.url}/openapi.json"]
    checks = ["not_a_server_error", *(check.__name__ for check in CHECKS)]
    options = ["--checks", ",".join(checks), "--phases", "examples,coverage,fuzzing", "-n", PER_OPERATION, "-w", "2"]
    options += ["--request-timeout", str(PATIENCE_S)]
    finished = subprocess.run(
        [*command, *options, "--continue-on-failure"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    print(finished.stdout[-6000:])
    assert finished.returncode == 0, finished.stdout[-6000:]
    cases = re.search(r"(\d+) generated", finished.stdout)
    assert cases is not None
    assert int(cases[1]) >= 1000


# -- what random requests hardly ever get: success -------------------------------------------------------------------

SESSION = "/v1/users/{userId}/sessions/{sessionId}/edit"
PET = (SAMPLE / "pet.jpg").read_bytes()
DAMAGED = make_photo()[:400]
"""Begins as a JPEG, and so is accepted."""


@pytest.fixture
def documented(service: Running) -> DocumentedService:
    return DocumentedService(service.process.url)


def test_an_edit_of_a_session(documented: DocumentedService, backend: Backend, session: Session) -> None:
    asyncio.run(backend.create(session, make_photo(), make_mask()))
    path = {"userId": session.user_id, "sessionId": session.session_id}
    documented.call(f"POST {SESSION}", 200, path_parameters=path, body={})
    documented.call(f"GET {SESSION}", 200, path_parameters=path)
    documented.call(f"DELETE {SESSION}", 409, path_parameters=path)


@pytest.mark.parametrize("options", [{}, {"stream": "true", "n": "2"}, {"response_format": "url"}])
def test_images(documented: DocumentedService, options: dict[str, str]) -> None:
    body = {"prompt": "grass", "image": make_photo(), "mask": make_mask(), **options}
    answer = documented.call("POST /v1/images/edits", 200, body=body, media_type="multipart/form-data")
    kind = "text/event-stream" if "stream" in options else "application/json"
    assert answer.headers["content-type"][0].startswith(kind)


def test_a_stream_that_ends_with_an_error(documented: DocumentedService) -> None:
    body = {"prompt": "grass", "image": DAMAGED, "mask": make_mask(), "stream": "true"}
    answer = documented.call("POST /v1/images/edits", 200, body=body, media_type="multipart/form-data")
    assert answer.text.count("event: error") == 1


def test_a_job_from_its_submission_to_its_end(documented: DocumentedService) -> None:
    body = {"operation": "ImageInpaint", "init_image": make_photo(), "mask_image": make_mask()}
    form: dict[str, Any] = {"body": body, "media_type": "multipart/form-data", "headers": {"Idempotency-Key": "once"}}
    path = {"job_id": documented.call("POST /v1/jobs", 202, **form).json()["job_id"]}
    stream = documented.call("GET /v1/jobs/{job_id}/events", 200, path_parameters=path)
    assert "event: done" in stream.text
    documented.call("POST /v1/jobs", 200, **form)
    assert documented.call("GET /v1/jobs/{job_id}", 200, path_parameters=path).json()["status"] == "completed"
    documented.call("GET /v1/jobs/{job_id}/result", 200, path_parameters=path)
    documented.call("GET /v1/jobs/{job_id}/result", 200, path_parameters=path, headers={"Accept": "application/json"})
    documented.call(
        "GET /v1/jobs/{job_id}/events", 204, path_parameters=path, headers={"Last-Event-ID": find_last(stream.text)}
    )
    documented.call("DELETE /v1/jobs/{job_id}", 409, path_parameters=path)
    documented.call("GET /v1/jobs", 200, query={"limit": 2, "status": "completed"})


def test_a_job_that_fails(documented: DocumentedService) -> None:
    body = {"operation": "ImageInpaint", "init_image": DAMAGED, "mask_image": make_mask()}
    created = documented.call("POST /v1/jobs", 202, body=body, media_type="multipart/form-data").json()
    stream = documented.call("GET /v1/jobs/{job_id}/events", 200, path_parameters={"job_id": created["job_id"]})
    assert "event: failed" in stream.text
    documented.call("GET /v1/jobs/{job_id}", 200, path_parameters={"job_id": created["job_id"]})


@pytest.mark.weights
def test_a_headshot_that_is_not_waited_for(documented: DocumentedService) -> None:
    photo = {"body": {"file": PET}, "media_type": "multipart/form-data"}
    path = {"job_id": documented.call("POST /headshot-async", 202, **photo).json()["job_id"]}
    documented.call("GET /headshot/{job_id}", 200, path_parameters=path)


@pytest.mark.weights
def test_a_headshot_of_an_upload(documented: DocumentedService) -> None:
    ticket = documented.call("POST /headshot/uploads", 201, body={"content_type": "image/jpeg"}).json()
    photo: dict[str, Any] = {"body": PET, "media_type": "*/*", "headers": ticket["headers"]}
    documented.call("PUT /files/{path}", 201, **photo, **read_link(ticket["upload_url"]))
    uploaded = {name: ticket[name] for name in ("job_id", "orig_key")}
    documented.call("POST /headshot", 200, body=uploaded)
    path = {"job_id": ticket["job_id"]}
    done = documented.call("GET /headshot/{job_id}", 200, path_parameters=path).json()
    assert done["status"] == "done"
    link = read_link(done["preview_url"])
    documented.call("GET /files/{path}", 200, **link)
    documented.call("HEAD /files/{path}", 200, **link)


def test_a_push(documented: DocumentedService, backend: Backend, session: Session) -> None:
    asyncio.run(backend.create(session, make_photo(), make_mask()))
    ids = {"userId": session.user_id, "sessionId": session.session_id}
    message = {"messageId": "1", "data": base64.b64encode(json.dumps(ids).encode()).decode()}
    documented.call("POST /inpaint", 204, body={"message": message, "subscription": "projects/p/subscriptions/s"})


def test_what_is_ready_and_offered(documented: DocumentedService) -> None:
    for probe in ("/health", "/healthz", "/ready"):
        documented.call(f"GET {probe}", 200)
    models = documented.call("GET /v1/models", 200).json()["data"]
    documented.call("GET /v1/models/{model}", 200, path_parameters={"model": models[0]["id"]})


def find_last(stream: str) -> str:
    ids: list[str] = re.findall(r"^id: (\d+)$", stream, re.MULTILINE)
    return ids[-1]


def read_link(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "path_parameters": {"path": unquote(parts.path.removeprefix("/files/"))},
        "query": dict(parse_qsl(parts.query)),
    }
