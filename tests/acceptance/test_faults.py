"""The real service under faults: stopped in order, killed, and without its model."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml

from pawfect.client import Client
from pawfect.demo import SAMPLE
from pawfect.service_process import ServiceProcess
from pawfect.sessions import Backend
from serve_app.jobs.model import Session
from serve_app.settings import Settings
from serve_app.weights import locate
from tests.photos import make_mask, make_photo

pytestmark = pytest.mark.serve

ROOT = Path(__file__).parents[2]


async def test_a_stop_finishes_what_runs_and_keeps_what_waits(tmp_path: Path) -> None:
    data, log = tmp_path / "data", tmp_path / "service.log"
    original, mask = (SAMPLE / "original.jpg").read_bytes(), (SAMPLE / "mask_auto.png").read_bytes()
    sessions = [Session("user", f"s{i}") for i in range(5)]
    backend = Backend(data)
    for session in sessions:
        await backend.create(session, original, mask)

    async def push(client: Client, session: Session) -> int:
        return await client.push(f"m-{session.session_id}", {"userId": "user", "sessionId": session.session_id})

    with ServiceProcess(data, log) as service:
        await service.wait_ready()
        async with Client(service.url) as client:
            pushes = [asyncio.create_task(push(client, session)) for session in sessions]
            async with asyncio.timeout(60):
                while not any([((await backend.read(s)) or {}).get("progress") for s in sessions]):
                    await asyncio.sleep(0.05)
            status = await asyncio.to_thread(service.stop)
            answers = await asyncio.gather(*pushes)
    assert status == 0
    assert set(answers) == {204, 503}, "running edits end, waiting ones are to be delivered again"
    with ServiceProcess(data, log) as service:
        await service.wait_ready()
        async with Client(service.url) as client:
            assert await asyncio.gather(*(push(client, session) for session in sessions)) == [204] * 5
            for session in sessions:
                job = (await client.show(session.user_id, session.session_id)).json()["job"]
                # One that had been claimed, but found the engine stopping, went back to the queue and ran again.
                assert job["status"] == "completed"
                assert job["attempts"] <= 2
    backend.close()


def test_sigkills_in_the_middle_of_edits_lose_nothing_and_double_nothing() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "bench.chaos_local", "--kills", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(finished.stdout.splitlines()[-1])
    assert (result["kills"], result["messages"], result["lost"], result["double_effects"]) == (2, 4, 0, 0)
    assert result["mid_job"] >= 1


def test_frozen_and_restarted_emulators_lose_nothing_and_double_nothing(emulators: object) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "bench.chaos_gcp", "--messages", "18"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(finished.stdout.splitlines()[-1])
    assert (result["completed"], result["double_effects"], result["lost"], result["stuck"]) == (18, 0, 0, 0)


async def test_a_model_that_does_not_load_is_said_and_its_replica_is_replaced(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    environment = {
        "PAWFECT_ENGINES__WEIGHTS_DIR": str(weights),
        "PAWFECT_ENGINES__LOAD_TIMEOUT_S": "3",
        "PAWFECT_ENGINES__LOAD_BACKOFF_S": "0.2",
    }
    with ServiceProcess(tmp_path / "data", tmp_path / "service.log", environment=environment) as service:
        async with httpx.AsyncClient(base_url=service.url, trust_env=False) as http, asyncio.timeout(120):
            seen: set[str] = set()
            while "failed" not in seen:
                await asyncio.sleep(0.3)
                try:
                    response = await http.get("/ready")
                except httpx.TransportError:
                    continue
                assert response.status_code in (404, 503)  # 404: the proxy is up, the application not yet
                if response.status_code == 503:
                    seen.add(response.json()["state"])
            assert "make weights" in response.json()["reason"]
            assert (await http.get("/healthz")).status_code == 200
            shutil.copy(locate("migan", Settings().engines.weights_dir.expanduser()), weights)
            while (await http.get("/ready")).status_code != 200:
                await asyncio.sleep(0.5)


async def test_an_engine_scaled_to_zero_is_ready_and_the_first_job_wakes_it(tmp_path: Path) -> None:
    plan = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    draft = next(each for each in plan["applications"][0]["deployments"] if each["name"] == "Draft")
    del draft["num_replicas"]
    draft["autoscaling_config"] = {"min_replicas": 0, "initial_replicas": 0, "max_replicas": 1, "upscale_delay_s": 0}
    config = tmp_path / "serve_config.yaml"
    config.write_text(yaml.safe_dump(plan))
    backend, session = Backend(tmp_path / "data"), Session("user", "s")
    await backend.create(session, make_photo(), make_mask())
    with ServiceProcess(tmp_path / "data", tmp_path / "service.log", config=config) as service:
        await service.wait_ready()
        async with httpx.AsyncClient(base_url=service.url, trust_env=False) as http:
            assert (await http.get("/ready")).json()["state"] == "idle"
            await asyncio.sleep(5)  # long enough for a question to the engine to have woken it
            assert (await http.get("/ready")).json()["state"] == "idle"
        async with Client(service.url) as client:
            assert await client.push("m1", {"userId": "user", "sessionId": "s"}) == 204
            assert (await client.show("user", "s")).json()["processingStatus"] == "completed"
    backend.close()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"PAWFECT_JOBS__LEASE_S": "soon"}, "PAWFECT_JOBS__LEASE_S: Input should be a valid number"),
        ({"ENV": "staging"}, "PAWFECT_ENV: Input should be 'local' or 'gcp' (got 'staging')"),
        ({"PAWFECT_LEASE_S": "3"}, "PAWFECT_LEASE_S is not a setting. Did you mean PAWFECT_JOBS__LEASE_S?"),
        ({"ENV": "gcp"}, "cannot start: "),
    ],
)
def test_a_wrong_setting_stops_the_start_with_its_name(tmp_path: Path, environment: dict[str, str], words: str) -> None:
    service = ServiceProcess(tmp_path / "data", tmp_path / "service.log", environment=environment)
    service.start()
    assert service._process is not None
    assert service._process.wait(60) == 2
    assert words in service.tail()
    assert "Traceback" not in service.tail()


def test_a_taken_port_stops_the_start(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        service = ServiceProcess(tmp_path / "data", tmp_path / "service.log", port=port)
        service.start()
        assert service._process is not None
        assert service._process.wait(60) == 2
    assert f"Port {port} is taken" in service.tail()
