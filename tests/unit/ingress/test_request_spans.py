"""Which requests are traced, whose trace they continue, and what is said of them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from serve_app.jobs.model import Session
from tests.api import Api, open_api
from tests.log_lines import capture
from tests.photos import make_mask, make_photo
from tests.spans import PARENT, SPAN, TRACE, KeptTracing, show_id, show_parent, show_trace
from tests.workbench import SESSION

OTHER = "00-11111111111111111111111111111111-2222222222222222-01"


async def push(api: Api, attributes: dict[str, str] | None, message_id: str = "m1", **headers: str) -> int:
    data = {"userId": SESSION.user_id, "sessionId": SESSION.session_id}
    message: dict[str, Any] = {"messageId": message_id, "data": base64.b64encode(json.dumps(data).encode()).decode()}
    if attributes is not None:
        message["attributes"] = attributes
    return (await api.http.post("/inpaint", json={"message": message}, headers=headers)).status_code


@pytest.mark.parametrize(
    ("attributes", "headers", "wanted"),
    [
        ({"traceparent": PARENT}, {}, (TRACE, SPAN)),
        ({"traceparent": PARENT, "googclient_traceparent": OTHER}, {"traceparent": OTHER}, (TRACE, SPAN)),
        ({"googclient_traceparent": PARENT}, {"traceparent": OTHER}, (TRACE, SPAN)),
        ({"traceparent": "nonsense", "googclient_traceparent": PARENT}, {}, (TRACE, SPAN)),
        ({"origin": "app"}, {"traceparent": PARENT}, (TRACE, SPAN)),
        (None, {"traceparent": PARENT}, (TRACE, SPAN)),
        ({"traceparent": "nonsense"}, {"traceparent": "nonsense"}, None),
        ({}, {}, None),
        (None, {}, None),
    ],
)
async def test_a_push_continues_the_trace_of_its_message(
    tmp_path: Path, attributes: dict[str, str] | None, headers: dict[str, str], wanted: tuple[str, str] | None
) -> None:
    tracing = KeptTracing()
    async with open_api(tmp_path, tracing=tracing) as api:
        await api.bench.put_session()
        assert await push(api, attributes, **headers) == 204
        job = (await api.bench.service.find_session(SESSION))[1]
    request = tracing.find("POST /inpaint")
    assert (None if wanted is None else (show_trace(request), show_parent(request))) == wanted
    assert show_parent(request) == (wanted and wanted[1])
    assert job is not None
    assert (job.traceparent or "").startswith(f"00-{show_trace(request)}-{show_id(request)}-")
    said = dict(request.attributes or {})
    assert said == {
        "http.request.method": "POST",
        "http.route": "/inpaint",
        "http.response.status_code": 204,
        "pawfect.job_id": job.id,
    }
    assert show_parent(tracing.find("job")) == show_id(request)


async def test_a_second_message_is_linked_to_the_jobs_trace(tmp_path: Path) -> None:
    tracing = KeptTracing()
    async with open_api(tmp_path, tracing=tracing) as api:
        await api.bench.put_session()
        await push(api, {"traceparent": PARENT}, "m1")
        await push(api, {"traceparent": OTHER}, "m2")
        job = (await api.bench.service.find_session(SESSION))[1]
    assert job is not None
    assert (job.traceparent or "").startswith(f"00-{TRACE}-")
    (second,) = (span for span in tracing.spans if show_trace(span) == "1" * 32)
    assert [f"{link.context.trace_id:032x}" for link in second.links] == [TRACE]


async def test_what_is_no_work_makes_no_span(tmp_path: Path) -> None:
    tracing = KeptTracing()
    async with open_api(tmp_path, tracing=tracing) as api:
        for path in ("/health", "/healthz", "/ready", "/v1/models", "/openapi.json", "/nowhere", "/files/x"):
            await api.http.get(path, headers={"traceparent": PARENT})
        await api.http.get("/v1/jobs")
        assert tracing.spans == []
        await api.http.get("/v1/jobs", headers={"traceparent": PARENT})
    assert [span.name for span in tracing.spans] == ["GET /v1/jobs"]


async def test_jobs_images_and_headshots_are_traced(tmp_path: Path) -> None:
    tracing = KeptTracing()
    async with open_api(tmp_path, tracing=tracing) as api:
        files = {"init_image": make_photo(), "mask_image": make_mask()}
        asked = await api.http.post(
            "/v1/jobs", data={"operation": "ImageInpaint"}, files=files, headers={"traceparent": PARENT}
        )
        assert asked.status_code == 202, asked.text
        images = await api.http.post(
            "/v1/images/edits", data={"prompt": "x", "n": "2"}, files={"image": make_photo(), "mask": make_mask()}
        )
        await api.http.post("/headshot-async", files={"file": ("a.jpg", make_photo())})
        assert (await api.http.post("/v1/jobs", content=b"{")).status_code >= 400
        await api.http.delete(f"/v1/jobs/{asked.json()['job_id']}")
    names = [span.name for span in tracing.spans]
    assert {"POST /v1/jobs", "POST /v1/images/edits", "POST /headshot-async", "DELETE /v1/jobs/{job_id}"} <= set(names)
    (first,) = (span for span in tracing.spans if span.name == "POST /v1/jobs" and show_trace(span) == TRACE)
    assert (first.attributes or {})["pawfect.job_id"] == asked.json()["job_id"]
    if images.status_code == 200:
        (many,) = (span for span in tracing.spans if span.name == "POST /v1/images/edits")
        assert len((many.attributes or {})["pawfect.job_id"]) == 2  # type: ignore[arg-type]


async def test_without_traces_a_caller_still_finds_its_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = capture(monkeypatch)
    async with open_api(tmp_path) as api:
        await api.bench.put_session()
        path = f"/v1/users/{SESSION.user_id}/sessions/{SESSION.session_id}/edit"
        assert (await api.http.post(path, headers={"traceparent": PARENT})).status_code == 200
        job = (await api.bench.service.find_session(SESSION))[1]
    assert job is not None
    assert job.traceparent is None, "a document that earlier versions can read"
    (line,) = (line for line in lines if line["message"] == "an edit is asked for")
    assert (line["trace"], line["job"]) == (TRACE, job.id)
    claimed = [line for line in lines if line["message"] == "claimed"]
    assert [("trace" in line, line["job"]) for line in claimed] == [(False, job.id)]


async def test_a_defect_is_logged_with_its_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = capture(monkeypatch)
    tracing = KeptTracing()
    async with open_api(tmp_path, tracing=tracing) as api:
        document = {"jobId": "other", "jobPublishedAt": "soon"}
        await api.bench.backend.create(Session("u", "s"), make_photo(), make_mask(), document)
        answer = await api.http.post("/v1/users/u/sessions/s/edit", headers={"traceparent": PARENT})
    assert answer.status_code == 500
    (line,) = (line for line in lines if line["message"] == "defect while answering")
    assert line["trace"] == TRACE
    (span,) = tracing.spans
    assert (span.status.is_ok, (span.attributes or {})["http.response.status_code"]) == (False, 500)
    assert not span.events, "an exception's text is not kept"
