"""Traces of the real service, as a real collector gets them: from the request to every step of the model."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from pawfect.client import Client
from pawfect.demo import SAMPLE
from pawfect.sessions import Backend
from serve_app.jobs.model import Session
from tests.acceptance.observed_service import ObservedService
from tests.collector import Collector, SeenSpan
from tests.photos import make_mask, make_photo

pytestmark = pytest.mark.serve

PATIENCE_S = 120.0
STEPS = 3
STAGES = {"download", "decode", "plan", "engine", "composite", "encode", "upload"}
SLACK_NS = 1_000_000
"""A float holds a time of today to some hundred nanoseconds; two processes of one machine have one clock."""


@pytest.fixture
async def client(observed: ObservedService) -> AsyncIterator[Client]:
    async with Client(observed.process.url, observed.key) as client:
        yield client


@pytest.fixture
def backend(observed: ObservedService) -> Iterator[Backend]:
    backend = Backend(observed.process.data_dir)
    yield backend
    backend.close()


def draw_parent(flags: str = "01") -> tuple[str, str, str]:
    """A trace's id, a span's in it, and both as traceparent."""
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    return trace, span, f"00-{trace}-{span}-{flags}"


async def wait_for(collector: Collector, trace: str, complete: Callable[[list[SeenSpan]], bool]) -> list[SeenSpan]:
    async with asyncio.timeout(PATIENCE_S):
        while not complete(spans := collector.find(trace)):
            await asyncio.sleep(0.2)
    return spans


def has_ended(spans: list[SeenSpan]) -> bool:
    """The request's own span, and that of the run, are the last to be sent by their processes; steps come apart."""
    names = Counter(span.name for span in spans)
    return names["job"] >= 1 and any(span.kind == Span.SPAN_KIND_SERVER for span in spans) and names["step"] >= STEPS


def get_one(spans: list[SeenSpan], name: str) -> SeenSpan:
    found = [span for span in spans if span.name == name]
    assert len(found) == 1, [span.name for span in spans]
    return found[0]


def check_nested(spans: list[SeenSpan], *, but: frozenset[str] = frozenset()) -> None:
    """Every span lies within its parent's time, as far as that is ours."""
    known = {span.id: span for span in spans}
    for span in spans:
        assert span.start <= span.end
        if span.parent in known and span.name not in but:
            parent = known[span.parent]
            assert parent.start - SLACK_NS <= span.start, (span, parent)
            # A push is answered once the store has its job's end, which the Editor's span outlives by a moment.
            if span.name != "job":
                assert span.end <= parent.end + SLACK_NS, (span, parent)


@pytest.mark.parametrize("attribute", ["traceparent", "googclient_traceparent"])
async def test_a_push_is_one_trace_from_its_message_to_every_step(
    observed: ObservedService, client: Client, backend: Backend, attribute: str
) -> None:
    session = Session("traces", attribute)
    await backend.create(session, (SAMPLE / "original.jpg").read_bytes(), (SAMPLE / "mask_auto.png").read_bytes())
    trace, publisher, parent = draw_parent()
    data = {"userId": session.user_id, "sessionId": session.session_id, "quality": "low", "steps": STEPS}
    assert await client.push(f"m-{trace}", data, attributes={attribute: parent, "origin": "app"}) == 204
    spans = await wait_for(observed.collector, trace, has_ended)

    request, job, engine = get_one(spans, "POST /inpaint"), get_one(spans, "job"), get_one(spans, "engine")
    assert (request.parent, request.kind, request.role) == (publisher, Span.SPAN_KIND_SERVER, "ingress")
    assert (request.attributes["http.route"], request.attributes["http.response.status_code"]) == ("/inpaint", 204)
    assert (job.parent, job.kind, job.role) == (request.id, Span.SPAN_KIND_CONSUMER, "editor")
    assert (job.attributes["pawfect.attempt"], job.attributes["pawfect.outcome"]) == (1, "completed")
    assert job.attributes["pawfect.job_id"] == request.attributes["pawfect.job_id"]
    queue = get_one(spans, "queue")
    assert (queue.parent, queue.end) == (request.id, job.start)
    assert {span.name for span in spans if span.parent == job.id} == STAGES
    assert engine.parent == job.id
    work = [span for span in spans if span.role == "flux"]
    assert {span.parent for span in work} == {engine.id}
    assert [span.attributes["pawfect.step"] for span in work if span.name == "step"] == list(range(1, STEPS + 1))
    assert {span.attributes["pawfect.steps"] for span in work if span.name == "step"} == {STEPS}
    assert Counter(span.name for span in work) == {"prompt": 1, "encode": 1, "step": STEPS, "decode": 1}
    assert {span.resource["service.name"] for span in spans} == {"pawfect"}
    check_nested(spans)


async def test_nothing_of_a_user_is_in_a_trace(observed: ObservedService, client: Client, backend: Backend) -> None:
    session = Session("user-canary-41", "session-canary-42")
    await backend.create(session, make_photo(), make_mask())
    trace, _, parent = draw_parent()
    data = {"userId": session.user_id, "sessionId": session.session_id, "prompt": "prompt-canary-43", "steps": STEPS}
    assert await client.push(f"m-{trace}", data, attributes={"traceparent": parent, "note": "canary-44"}) == 204
    spans = await wait_for(observed.collector, trace, has_ended)
    said = json.dumps([[span.name, span.attributes, span.resource] for span in spans])
    assert "pawfect.job_id" in said
    assert "canary" not in said


async def test_a_job_over_http_is_a_trace_that_outlives_its_request(observed: ObservedService) -> None:
    trace, caller, parent = draw_parent()
    headers = {"Authorization": f"Bearer {observed.key}", "traceparent": parent}
    files = {
        "init_image": ("a", make_photo()),
        "mask_image": ("b", make_mask()),
        "operation": (None, "ImageInpaint"),
        "steps": (None, str(STEPS)),
    }
    async with httpx.AsyncClient(base_url=observed.process.url, trust_env=False, timeout=PATIENCE_S) as http:
        answer = await http.post("/v1/jobs", files=files, headers=headers)
    assert answer.status_code == 202, answer.text
    spans = await wait_for(observed.collector, trace, has_ended)
    request, job = get_one(spans, "POST /v1/jobs"), get_one(spans, "job")
    assert (request.parent, job.parent) == (caller, request.id)
    assert request.attributes["pawfect.job_id"] == job.attributes["pawfect.job_id"] == answer.json()["job_id"]
    check_nested(spans, but=frozenset({"job", "queue"}))


async def test_who_joins_a_job_is_linked_to_its_trace(
    observed: ObservedService, client: Client, backend: Backend
) -> None:
    session = Session("traces", "joined")
    await backend.create(session, make_photo(), make_mask())
    data = {"userId": session.user_id, "sessionId": session.session_id, "steps": STEPS}
    (first, _, one), (second, _, two) = draw_parent(), draw_parent()
    assert await client.push(f"m-{first}", data, attributes={"traceparent": one}) == 204
    assert await client.push(f"m-{second}", data, attributes={"traceparent": two}) == 204
    await wait_for(observed.collector, first, has_ended)
    joined = await wait_for(observed.collector, second, bool)
    assert [span.name for span in joined] == ["POST /inpaint"]
    assert joined[0].links == (first,)


async def test_a_headshot_and_a_draft_have_their_pieces(
    observed: ObservedService, client: Client, backend: Backend
) -> None:
    answer = await client.make_headshot((SAMPLE / "pet.jpg").read_bytes())
    assert answer.status_code == 200, answer.text
    await backend.create(Session("traces", "draft"), make_photo(), make_mask())
    edited = await client.edit("traces", "draft", quality="draft")
    assert edited.status_code == 200, edited.text
    names: dict[str, set[str]] = {}
    async with asyncio.timeout(PATIENCE_S):
        while not {"decode", "matting", "print"} <= names.get("headshots", set()) or "fill" not in names.get(
            "draft", set()
        ):
            await asyncio.sleep(0.2)
            for span in observed.collector.all():
                names.setdefault(span.role, set()).add(span.name)
    assert names["draft"] == {"fill"}


async def test_what_a_sender_does_not_sample_is_not_kept_but_carried(
    observed: ObservedService, client: Client, backend: Backend
) -> None:
    session = Session("traces", "unsampled")
    await backend.create(session, make_photo(), make_mask())
    trace, _, parent = draw_parent(flags="00")
    data = {"userId": session.user_id, "sessionId": session.session_id, "quality": "draft"}
    assert await client.push(f"m-{trace}", data, attributes={"traceparent": parent}) == 204
    kept, _, next_parent = draw_parent()
    await backend.create(Session("traces", "sampled"), make_photo(), make_mask())
    data = {**data, "sessionId": "sampled"}
    assert await client.push(f"m-{kept}", data, attributes={"traceparent": next_parent}) == 204
    await wait_for(observed.collector, kept, lambda spans: any(span.name == "job" for span in spans))
    assert observed.collector.find(trace) == []


async def test_probes_and_looks_make_no_spans(observed: ObservedService, client: Client) -> None:
    await client.ready()
    await client.list_jobs()
    trace, _, parent = draw_parent()
    async with httpx.AsyncClient(base_url=observed.process.url, trust_env=False) as http:
        assert (await http.get("/health", headers={"traceparent": parent})).status_code == 200
        headers = {"Authorization": f"Bearer {observed.key}", "traceparent": parent}
        assert (await http.get("/v1/jobs", headers=headers)).status_code == 200
    spans = await wait_for(observed.collector, trace, bool)
    assert [span.name for span in spans] == ["GET /v1/jobs"], "a look is shown to who traces it himself"
    assert {span.name for span in observed.collector.all() if span.kind == Span.SPAN_KIND_SERVER} <= {
        "POST /inpaint", "POST /v1/jobs", "POST /headshot", "GET /v1/jobs",
        "POST /v1/users/{userId}/sessions/{sessionId}/edit",
        "POST /headshot/uploads", "POST /headshot-async", "POST /v1/images/edits", "DELETE /v1/jobs/{job_id}",
    }  # fmt: skip


@contextmanager
def down(collector: Collector) -> Iterator[None]:
    collector.stop()
    try:
        yield
    finally:
        collector.start()


@contextmanager
def silent(collector: Collector) -> Iterator[None]:
    collector.is_silent.set()
    try:
        yield
    finally:
        collector.is_silent.clear()


@pytest.mark.parametrize("state", [down, silent])
async def test_a_collector_that_is_out_disturbs_no_job(
    observed: ObservedService,
    client: Client,
    backend: Backend,
    state: Callable[[Collector], AbstractContextManager[None]],
) -> None:
    before = observed.log.read_text(errors="replace").count("opentelemetry")
    with state(observed.collector):
        until = time.monotonic() + 8  # several batches fail meanwhile, each after some tries
        number = 0
        while time.monotonic() < until or number < 3:
            number += 1
            session = Session("traces", f"{state.__name__}-{number}")
            await backend.create(session, make_photo(), make_mask())
            assert (await client.edit(session.user_id, session.session_id, quality="draft")).status_code == 200
    said = observed.log.read_text(errors="replace").count("opentelemetry") - before
    assert said <= 40, "each process complains of each thing once a minute"
