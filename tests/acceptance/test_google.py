"""The production environment on the real emulators: a topic's push subscription drives the real service, and the
app's documents and bucket show what came of it. The emulator signs no pushes; tokens have tests of their own."""

from __future__ import annotations

import asyncio
import io
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.pubsub_v1 import ReceivedMessage
from PIL import Image

from pawfect.client import Client
from pawfect.demo import SAMPLE
from pawfect.replay import main as replay
from pawfect.resources import provision
from pawfect.service_process import ServiceProcess, find_free_port
from pawfect.sessions import GoogleBackend
from serve_app.google_clients import GoogleClients, make_clients
from serve_app.jobs.model import Session
from serve_app.jobs.pubsub import acknowledge, pull
from serve_app.settings import Settings
from serve_app.settings_sections import GoogleSettings
from tests.photos import make_mask, make_photo

pytestmark = pytest.mark.serve

PROJECT = "acceptance"
PUSH_WAIT_S = 1.5
"""So short that the sample photo takes longer: a push of it is answered 503 and delivered again."""
MIN_BACKOFF_S = 10
"""Pub/Sub waits at least so long before it delivers again."""
PATIENCE_S = 90.0
BUCKETS = {"headshot_originals": "acceptance-originals", "headshot_outputs": "acceptance-outputs"}


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(env="gcp", project_id=PROJECT, google=GoogleSettings(**BUCKETS))


@pytest.fixture(scope="module")
def google(
    emulators: Mapping[str, str], settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    """The service, and the resources around it as Terraform makes them."""
    root, port = tmp_path_factory.mktemp("google"), find_free_port()

    async def prepare() -> None:
        clients = make_clients(settings)
        url = f"http://127.0.0.1:{port}"
        await asyncio.to_thread(
            provision, clients, settings.google, f"{url}/inpaint", headshot_endpoint=f"{url}/headshot/push"
        )
        await clients.close()

    asyncio.run(prepare())
    environment = {
        **emulators,
        "ENV": "gcp",
        "PROJECT_ID": PROJECT,
        "GCS_BUCKET_ORIGINAL": BUCKETS["headshot_originals"],
        "GCS_BUCKET_OUTPUT": BUCKETS["headshot_outputs"],
        "PAWFECT_JOBS__PUSH_WAIT_S": str(PUSH_WAIT_S),
        "PAWFECT_JOBS__CLAIM_POLL_S": "0.2",
    }
    with ServiceProcess(root / "data", root / "service.log", port=port, environment=environment) as process:
        asyncio.run(process.wait_ready())
        yield process


@pytest.fixture
async def app(google: ServiceProcess, settings: Settings) -> AsyncIterator[GoogleBackend]:
    backend = GoogleBackend(settings)
    yield backend
    await backend.close()


@pytest.fixture
async def clients(google: ServiceProcess, settings: Settings) -> AsyncIterator[GoogleClients]:
    made = make_clients(settings)
    yield made
    await made.close()


@pytest.fixture
def session(request: pytest.FixtureRequest) -> Session:
    return Session("user", f"{request.node.name[:60].replace('[', '-').replace(']', '')}-{uuid.uuid4().hex[:6]}")


async def wait_for(
    app: GoogleBackend, session: Session, wanted: Callable[[dict[str, Any]], bool] | None = None
) -> dict[str, Any]:
    """The session's document once it is completed or failed, or as wanted."""
    wanted = wanted or (lambda document: document.get("processingStatus") in ("completed", "failed"))
    async with asyncio.timeout(PATIENCE_S):
        while True:
            document = await app.read(session) or {}
            if wanted(document):
                return document
            await asyncio.sleep(0.1)


async def read_job(clients: GoogleClients, document: dict[str, Any]) -> dict[str, Any]:
    snapshot = await clients.firestore.collection("jobs").document(document["jobId"]).get()
    body = snapshot.to_dict()
    assert body is not None
    return body


async def find_letter(clients: GoogleClients, wanted: Callable[[Mapping[str, str]], bool]) -> ReceivedMessage:
    """The dead letter as a person finds it, from the replay subscription; others are left there."""
    subscription = clients.subscription("session-processing-dead-letter-replay")
    async with asyncio.timeout(PATIENCE_S):
        while True:
            for received in await asyncio.to_thread(pull, clients.subscriber, subscription, 20, 2.0):
                if wanted(received.message.attributes):
                    await asyncio.to_thread(acknowledge, clients.subscriber, subscription, [received.ack_id], 5.0)
                    return received


async def test_a_published_session_is_edited(app: GoogleBackend, clients: GoogleClients, session: Session) -> None:
    await app.create(session, make_photo(), make_mask(), {"petName": "Rocky", "owner": {"name": "Ada"}})
    await app.publish_session(session)
    document = await wait_for(app, session)
    assert (document["processingStatus"], document["errorMessage"]) == ("completed", None)
    assert (document["petName"], document["owner"]) == ("Rocky", {"name": "Ada"})
    edited = Image.open(io.BytesIO(await app.download(document["editedImagePath"])))
    preview = Image.open(io.BytesIO(await app.download(document["previewImagePath"])))
    assert (edited.format, edited.size, preview.format) == ("JPEG", (160, 120), "JPEG")
    job = await read_job(clients, document)
    assert (job["status"], job["attempts"]) == ("completed", 1)


async def test_the_same_edit_asked_for_twice_is_one_edit(
    app: GoogleBackend, clients: GoogleClients, session: Session
) -> None:
    await app.create(session, make_photo(), make_mask())
    await app.publish_session(session)
    document = await wait_for(app, session)
    generation = await app.generation(session.edited_path)
    await app.publish_session(session)
    async with asyncio.timeout(PATIENCE_S):
        while len((await read_job(clients, document))["deliveries"]) < 2:
            await asyncio.sleep(0.1)
    job = await read_job(clients, document)
    assert (job["status"], job["attempts"]) == ("completed", 1)
    assert await app.generation(session.edited_path) == generation


async def test_concurrent_duplicates_are_one_edit(app: GoogleBackend, clients: GoogleClients, session: Session) -> None:
    await app.create(session, make_photo(), make_mask())
    await asyncio.gather(*(app.publish_session(session) for _ in range(4)))
    document = await wait_for(app, session)
    async with asyncio.timeout(PATIENCE_S):
        while len((await read_job(clients, document))["deliveries"]) < 4:
            await asyncio.sleep(0.1)
    assert (await read_job(clients, document))["attempts"] == 1


@pytest.mark.parametrize("poison", [b"not json", b'{"userId": "user"}', b'{"userId": "../x", "sessionId": "s"}'])
async def test_poison_is_dead_lettered_with_its_reason(
    app: GoogleBackend, clients: GoogleClients, poison: bytes
) -> None:
    message_id = await app.publish(poison)
    letter = await find_letter(clients, lambda attributes: attributes.get("messageId") == message_id)
    assert letter.message.data == poison
    assert letter.message.attributes["reason"] == "invalid_message"
    assert letter.message.attributes["message"].endswith(".")


async def test_a_new_mask_is_a_new_edit(app: GoogleBackend, session: Session) -> None:
    await app.create(session, make_photo(), make_mask())
    await app.publish_session(session)
    first = await wait_for(app, session)
    before = await app.download(session.edited_path)
    await app.create(session, None, make_mask(box=(10, 60, 60, 100)), first)
    await app.publish_session(session)
    second = await wait_for(
        app,
        session,
        lambda document: document.get("jobId") != first["jobId"] and document["processingStatus"] == "completed",
    )
    assert second["editedImagePath"] == first["editedImagePath"]
    assert await app.download(session.edited_path) != before


async def test_a_failed_edit_can_be_replayed(
    app: GoogleBackend,
    clients: GoogleClients,
    session: Session,
    google: ServiceProcess,
    emulators: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    await app.create(session, make_photo(), make_mask(box=None))
    await app.publish_session(session)
    failed = await wait_for(app, session)
    assert failed["processingStatus"] == "failed"
    assert "mask" in failed["errorMessage"]
    await app.create(session, None, make_mask(), failed)  # what was wrong is put right
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENV", "gcp")
    monkeypatch.setenv("PROJECT_ID", PROJECT)
    letter_id = f"{failed['jobId']}-{(await read_job(clients, failed))['finished_at']:.3f}"
    assert await asyncio.to_thread(replay, ["--id", letter_id]) == 0
    done = await wait_for(app, session, lambda document: document.get("processingStatus") == "completed")
    assert done["errorMessage"] is None


async def test_a_dropped_push_does_not_stop_the_edit(
    app: GoogleBackend, clients: GoogleClients, session: Session, google: ServiceProcess
) -> None:
    await app.create(session, (SAMPLE / "original.jpg").read_bytes(), (SAMPLE / "mask_auto.png").read_bytes())
    async with Client(google.url) as client:
        push = asyncio.create_task(
            client.push(f"dropped-{session.session_id}", {"userId": "user", "sessionId": session.session_id})
        )
        await wait_for(app, session, lambda document: (document.get("progress") or {}).get("stage") == "engine")
        push.cancel()
    document = await wait_for(app, session)
    assert document["processingStatus"] == "completed"
    assert (await read_job(clients, document))["attempts"] == 1


async def count_pushes(google: ServiceProcess, status: int) -> float:
    """How many pushes were answered so, as the service's own metric has it."""
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(f"http://127.0.0.1:{google.metrics_port}/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("ray_pawfect_pushes_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if f'status="{status}"' in line)


async def settle_pushes(google: ServiceProcess) -> tuple[float, float]:
    """The pushes answered 503 and 204 so far, once the metrics, which lag behind, stand still."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            before = await count_pushes(google, 503), await count_pushes(google, 204)
            await asyncio.sleep(12)  # longer than Pub/Sub's pause, and than the metrics' way
            if before == (await count_pushes(google, 503), await count_pushes(google, 204)):
                return before


async def test_near_its_deadline_a_push_is_nacked_and_its_redelivery_finds_the_same_edit(
    app: GoogleBackend, clients: GoogleClients, session: Session, google: ServiceProcess
) -> None:
    await app.create(session, (SAMPLE / "original.jpg").read_bytes(), (SAMPLE / "mask_auto.png").read_bytes())
    nacked, acknowledged = await settle_pushes(google)
    # Three more of its kind before it, so that it waits behind them for longer than a push may.
    others = [Session("user", f"{session.session_id}-{i}") for i in range(3)]
    for other in others:
        await app.create(other, (SAMPLE / "original.jpg").read_bytes(), (SAMPLE / "mask_auto.png").read_bytes())
        await app.publish_session(other)
    async with Client(google.url) as client:
        message = {"userId": "user", "sessionId": session.session_id}
        assert await client.push(f"late-{session.session_id}", message) == 503
        for each in (*others, session):
            assert (await wait_for(app, each))["processingStatus"] == "completed"
        assert await client.push(f"late-{session.session_id}", message) == 204
    for each in (*others, session):
        job = await read_job(clients, await wait_for(app, each))
        assert (job["attempts"], len(job["deliveries"])) == (1, 1)
    # Of the published ones at least the last was nacked, too; Pub/Sub delivers again by itself till all have their 204.
    async with asyncio.timeout(PATIENCE_S):
        while await count_pushes(google, 503) < nacked + 2 or await count_pushes(google, 204) < acknowledged + 4:
            await asyncio.sleep(0.5)
    assert (await read_job(clients, await wait_for(app, others[-1])))["attempts"] == 1


async def test_session_routes_want_a_token(google: ServiceProcess, app: GoogleBackend, session: Session) -> None:
    await app.create(session, make_photo(), make_mask())
    async with httpx.AsyncClient(base_url=google.url, trust_env=False) as http:
        path = f"/v1/users/user/sessions/{session.session_id}/edit"
        for method in ("GET", "POST", "DELETE"):
            response = await http.request(method, path)
            assert response.status_code in (401, 403)
            assert response.headers["content-type"] == "application/problem+json"
        assert (await http.get("/ready")).status_code == 200
    assert "jobId" not in (await app.read(session) or {})


async def test_a_message_that_pubsub_gave_up_shows_in_its_session(
    app: GoogleBackend, clients: GoogleClients, session: Session, settings: Settings
) -> None:
    """As Pub/Sub forwards it after max_delivery_attempts; the service reads the topic every half minute."""
    await app.create(session, make_photo(), make_mask())
    data = json.dumps({"userId": "user", "sessionId": session.session_id}).encode()
    topic = clients.topic(settings.google.dead_letter_topic)
    attributes = {"CloudPubSubDeadLetterSourceSubscription": "session-processing-push"}
    await asyncio.to_thread(
        clients.publisher.publish, request={"topic": topic, "messages": [{"data": data, "attributes": attributes}]}
    )
    document = await wait_for(app, session)
    assert document["processingStatus"] == "failed"
    assert "could not be delivered" in document["errorMessage"]


async def wait_for_headshot(app: GoogleBackend, job_id: str) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            document = await app.read_headshot(job_id) or {}
            if document.get("status") in ("done", "failed"):
                return document
            await asyncio.sleep(0.1)


async def test_a_published_photo_becomes_a_headshot(
    google: ServiceProcess, app: GoogleBackend, clients: GoogleClients
) -> None:
    """In buckets of their own; the emulators sign no links, so those are the service's."""
    job_id = f"perkie-{uuid.uuid4().hex[:8]}"
    await app.publish_headshot(job_id, (SAMPLE / "pet.jpg").read_bytes())
    document = await wait_for_headshot(app, job_id)
    assert (document["status"], document["error"]) == ("done", None)
    assert document["quality"]["metrics"]["w"] == 1800
    bucket = clients.storage.bucket(BUCKETS["headshot_outputs"])
    for name in ("preview", "print"):
        stored = await asyncio.to_thread(bucket.blob(f"{job_id}/outputs/{name}.png").download_as_bytes)
        async with Client(google.url) as client:
            path = document[f"{name}_url"].partition("/files/")[2]
            assert (await client.fetch(f"/files/{path}")).content == stored
        assert Image.open(io.BytesIO(stored)).mode == "RGBA"


async def test_a_published_message_without_its_photo_fails_and_is_a_dead_letter(
    app: GoogleBackend, clients: GoogleClients
) -> None:
    job_id = f"perkie-{uuid.uuid4().hex[:8]}"
    message = {"job_id": job_id, "orig_bucket": BUCKETS["headshot_originals"], "orig_key": f"{job_id}/original/no.jpg"}
    await app.publish(json.dumps(message).encode(), "perkie-headshot-jobs")
    document = await wait_for_headshot(app, job_id)
    assert (document["status"], document["error_code"]) == ("failed", "object_missing")
    letter = await find_letter(clients, lambda attributes: attributes.get("jobId") == job_id)
    assert json.loads(letter.message.data) == message
