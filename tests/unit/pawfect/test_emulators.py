"""The emulators as child processes: what they remember, and that nothing of them stays behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from pawfect.emulators import VARIABLES, Emulators, find_missing, main
from pawfect.resources import provision
from pawfect.service_process import find_free_port
from serve_app.errors import ConfigurationError
from serve_app.google_clients import make_clients
from serve_app.photos.gcs import GcsPhotoStore
from serve_app.settings import Settings

pytestmark = pytest.mark.skipif(find_missing() is not None, reason=str(find_missing()))

SETTINGS = Settings(env="gcp", project_id="demo")
PUSH = "http://127.0.0.1:1/inpaint"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Emulators]:
    with Emulators(tmp_path) as opened:
        yield opened


def find_ports(environment: Mapping[str, str]) -> list[int]:
    return [int(environment[name].rpartition(":")[2]) for name in VARIABLES.values()]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_state_outlives_a_restart_and_a_frozen_one_is_silent_and_ends(
    running: Emulators, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in running.environment().items():
        monkeypatch.setenv(name, value)
    clients = make_clients(SETTINGS)
    provision(clients, SETTINGS.google, PUSH)
    provision(clients, SETTINGS.google, PUSH)  # what is there is no obstacle
    photos = GcsPhotoStore(clients.storage, clients.bucket, SETTINGS.google)
    document = clients.firestore.document("users/u/sessions/s")
    generation = await photos.replace("a/b.jpg", b"photo")
    for times in (1, 2):
        await document.set({"times": times})
        running.restart("firestore")
        assert (await document.get()).to_dict() == {"times": times}
    running.restart("storage")
    assert await photos.stat("a/b.jpg") == generation
    running.restart("pubsub")
    provision(clients, SETTINGS.google, PUSH)
    (push,) = [
        subscription
        for subscription in clients.subscriber.list_subscriptions(request={"project": "projects/demo"})
        if subscription.push_config.push_endpoint == PUSH
    ]
    assert (push.ack_deadline_seconds, push.dead_letter_policy.max_delivery_attempts) == (600, 100)

    running.freeze("storage")
    with pytest.raises(httpx.ReadTimeout):
        await asyncio.to_thread(httpx.get, os.environ["STORAGE_EMULATOR_HOST"], timeout=0.3)
    running.thaw("storage")
    assert await photos.stat("a/b.jpg") == generation
    running.freeze("firestore")
    running.stop()
    assert not any(map(listens, find_ports(running.environment())))
    photos.close()
    await clients.close()


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        ports = {"pubsub": find_free_port(), "firestore": find_free_port(), "storage": holder.getsockname()[1]}
        with pytest.raises(ConfigurationError, match=f"Port {ports['storage']} is taken"):
            Emulators(tmp_path, ports=ports).start()  # type: ignore[arg-type]


def test_the_command_says_what_to_export_and_leaves_nothing_behind() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pawfect.emulators", "--free"], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert process.stdout is not None
    exports = {}
    for line in process.stdout:
        if not line.startswith("export "):
            break
        name, _, value = line.removeprefix("export ").strip().partition("=")
        exports[name] = value
    assert "the emulators are up" in line
    assert (exports["PROJECT_ID"], exports["ENV"]) == ("demo", "gcp")
    ports = find_ports(exports)
    assert all(map(listens, ports))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert not any(map(listens, ports))
    process.stdout.close()


def test_without_gcloud_the_reason_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert main(["--free"]) == 2
    assert "cannot start: The emulators cannot run here: gcloud is not installed." in capsys.readouterr().err
