"""What the logs say, and what they never say: a run of everything, and then every line of the service and of Ray is
looked through for what must not be there."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

from ingress.api_keys import draw_key
from pawfect.client import Client
from pawfect.demo import SAMPLE
from pawfect.sessions import Backend
from serve_app.jobs.model import Session
from tests.acceptance.observed_service import ObservedService
from tests.log_scan import find_leaks, list_logs, read_own_lines
from tests.photos import encode, make_mask, make_pixels

pytestmark = pytest.mark.serve

PATIENCE_S = 120.0
SEVERITIES = {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}
USER = "logs"
Made = tuple[dict[str, str], dict[str, bytes]]
"""Ids of jobs by what they were, and canaries by name."""
STEPS = 2


def draw(kind: str) -> str:
    return f"{kind}-canary {secrets.token_hex(12)} ü&/"


def make_canary_photo() -> tuple[bytes, dict[str, bytes]]:
    """A JPEG, and what would give it away: text in it, a run of its bytes, and how its pixels are printed."""
    pixels = make_pixels(320, 240, seed=77).copy()
    pixels[:64] = (201, 137, 63)
    comment = secrets.token_hex(16).encode()
    photo = encode(Image.fromarray(pixels), comment=comment, quality=95)
    middle = len(photo) // 2
    first = np.asarray(Image.open(io.BytesIO(photo)))[0, 0]
    shown = {"pixels as an array": str(first).encode(), "pixels as a list": str(first.tolist()).encode()}
    return photo, {"photo comment": comment, "photo bytes": photo[middle : middle + 12], **shown}


class Run:
    """Everything a day brings, and the canaries that went with it."""

    def __init__(self, service: ObservedService, client: Client, backend: Backend) -> None:
        self.service = service
        self.client = client
        self.backend = backend
        self.photo, photo = make_canary_photo()
        self.prompt, self.negative, self.idempotency = draw("prompt"), draw("negative"), secrets.token_hex(16)
        self.wrong_key, self.wrong_token = draw_key(), ".".join(secrets.token_urlsafe(24) for _ in range(3))
        self.loose = secrets.token_hex(16)
        self.canaries = {
            **photo,
            **service.secrets,
            "API key": service.key.encode(),
            "wrong API key": self.wrong_key.encode(),
            "wrong token": self.wrong_token.encode(),
            "token in a query": self.loose.encode(),
            "prompt": self.prompt.encode(),
            "negative prompt": self.negative.encode(),
            "idempotency key": self.idempotency.encode(),
            "Ray's token": service.read_ray_token(),
        }

    async def make(self) -> dict[str, str]:
        """All of it; the ids of some jobs."""
        jobs = {"completed": await self.push_an_edit(), "unreadable": await self.fail_on_a_photo()}
        jobs["http"] = await self.ask_for_jobs()
        await self.meet_a_defect()
        await self.make_headshots()
        await self.be_refused()
        return jobs

    async def push_an_edit(self) -> str:
        await self.backend.create(Session(USER, "pushed"), self.photo, make_mask(320, 240))
        data = {"userId": USER, "sessionId": "pushed", "prompt": self.prompt, "quality": "low", "steps": STEPS}
        assert await self.client.push(secrets.token_hex(8), data) == 204
        return await self.find_job("pushed", "completed")

    async def fail_on_a_photo(self) -> str:
        broken = self.photo[: len(self.photo) // 3]
        await self.backend.create(Session(USER, "broken"), b"GIF89a" + broken, make_mask())
        answer = await self.client.edit(USER, "broken", prompt=self.prompt)
        assert answer.status_code == 422, answer.text
        return await self.find_job("broken", "failed")

    async def ask_for_jobs(self) -> str:
        wish: dict[str, Any] = {"prompt": self.prompt, "negative_prompt": self.negative, "true_cfg": 2.0}
        images = {"init_image": self.photo, "mask_image": make_mask(320, 240)}
        for as_form in (False, True):
            answer = await self.client.submit_job(
                "ImageInpaint", key=f"{self.idempotency}{as_form}", as_form=as_form, steps=STEPS, **wish, **images
            )
            assert answer.status_code == 202, answer.text
            async for _ in self.client.follow(answer.json()["job_id"]):
                pass
        job_id = str(answer.json()["job_id"])
        view = (await self.client.get_job(job_id)).json()
        assert view["status"] == "completed", view
        assert (await self.client.fetch_result(job_id)).status_code == 200
        again = await self.client.submit_job("ImageInpaint", key=f"{self.idempotency}True", **images)
        assert again.status_code == 409
        wrong = await self.client.submit_job("ImageInpaint", **{**images, "init_image": self.photo[500:]}, **wish)
        assert wrong.status_code == 422
        return job_id

    async def meet_a_defect(self) -> None:
        """A session's document that the app's backend would not write: nothing expects it."""
        document = {"jobId": "edit-other", "jobPublishedAt": "soon", "prompt": self.prompt}
        await self.backend.create(Session(USER, "defect"), self.photo, make_mask(320, 240), document)
        assert (await self.client.edit(USER, "defect", prompt=self.prompt)).status_code == 500

    async def make_headshots(self) -> None:
        pet = (SAMPLE / "pet.jpg").read_bytes()
        ticket = (await self.client.open_upload("image/jpeg", "rex.jpg")).json()
        await self.note_link("upload", ticket["upload_url"])
        assert (await self.client.upload(ticket, pet)).status_code == 201
        asked = await self.client.start_headshot(ticket["job_id"], ticket["orig_key"])
        assert asked.status_code == 202, asked.text
        async with asyncio.timeout(PATIENCE_S):
            while (view := (await self.client.get_headshot(ticket["job_id"])).json())["status"] != "done":
                assert view["status"] != "failed", view
                await asyncio.sleep(0.2)
        for name in ("preview_url", "print_url"):
            await self.note_link(name, view[name])
            assert (await self.client.fetch(view[name])).status_code == 200
            assert (await self.client.fetch(view[name] + "0")).status_code == 403
        assert (await self.client.make_headshot(self.photo)).status_code == 422

    async def note_link(self, name: str, url: str) -> None:
        self.canaries[f"signature of the {name}"] = parse_qs(urlsplit(url).query)["signature"][0].encode()

    async def be_refused(self) -> None:
        async with httpx.AsyncClient(base_url=self.service.process.url, trust_env=False) as http:
            body = {"prompt": self.prompt, "init_image": base64.b64encode(self.photo).decode()}
            for token in (self.wrong_key, self.wrong_token):
                headers = {"Authorization": f"Bearer {token}", "Host": "somewhere.example"}
                assert (await http.post("/v1/jobs", json=body, headers=headers)).status_code in (401, 403)
            assert (await http.post("/inpaint", json=body)).status_code == 400
            nonsense = base64.b64encode(f"{{{self.prompt}".encode()).decode()
            message = {"message": {"messageId": secrets.token_hex(8), "data": nonsense}}
            assert (await http.post("/inpaint", json=message)).status_code == 204, "it is a dead letter"
            for path in ("/nowhere", "/v1/jobs", "/files/photo.jpg"):
                assert (await http.get(path, params={"token": self.loose, "signature": self.loose})).status_code < 500

    async def find_job(self, session_id: str, status: str | None) -> str:
        view = (await self.client.show(USER, session_id)).json()
        assert status is None or view["processingStatus"] == status, view
        return str(view["job"]["jobId"])


def list_all(service: ObservedService) -> list[Path]:
    return list_logs(service.log, *service.list_folders())


def read_all_own(service: ObservedService) -> list[dict[str, Any]]:
    """From the replicas' own files; what Ray repeats in the service's output is the same lines once more."""
    return [
        line for path in list_logs(*service.list_folders()) if path.suffix == ".err" for line in read_own_lines(path)
    ]


@pytest.fixture(scope="module")
def jobs(observed: ObservedService) -> Made:
    async def make() -> Made:
        backend = Backend(observed.process.data_dir)
        async with Client(observed.process.url, observed.key) as client:
            run = Run(observed, client, backend)
            made = await run.make()
        backend.close()
        await asyncio.sleep(1)  # for the last lines to be written
        return made, run.canaries

    return asyncio.run(make())


def test_no_secret_and_no_content_is_in_any_line(observed: ObservedService, jobs: Made) -> None:
    _, canaries = jobs
    paths = list_all(observed)
    assert len([path for path in paths if path.name.startswith("replica_")]) >= 5, "Serve's own logs are among them"
    assert len([path for path in paths if path.name.startswith("worker-") and path.stat().st_size]) >= 5
    assert find_leaks(canaries, paths) == []


def test_the_scan_would_find_what_this_run_has_written(observed: ObservedService, jobs: Made) -> None:
    """The same scan of the same files finds what is in them: a job's id, in two processes at least."""
    made, _ = jobs
    found = find_leaks({"id": made["completed"].encode()}, list_all(observed))
    assert len({leak.path for leak in found}) >= 2


def test_every_line_of_ours_is_json_that_cloud_logging_understands(observed: ObservedService, jobs: Made) -> None:
    lines = read_all_own(observed)
    assert len(lines) > 20
    assert {line["severity"] for line in lines} <= SEVERITIES
    assert all(line["message"] and line["time"] for line in lines)
    assert {line["logger"].partition(".")[0] for line in lines} >= {"serve_app", "ingress", "ray"}
    for path in list_logs(*observed.list_folders()):
        if path.suffix == ".err" and path.name.startswith("worker-"):
            ours = [line for line in path.read_bytes().splitlines() if b"serve_app." in line and b'"logger"' in line]
            assert all(line.startswith(b"{") and json.loads(line)["severity"] for line in ours)


def test_every_line_of_serve_in_a_replica_is_json_with_its_severity(observed: ObservedService, jobs: Made) -> None:
    """Those from before our code runs there have Ray's own fields."""
    paths = [path for path in list_logs(*observed.list_folders()) if path.name.startswith("replica_pawfect_")]
    lines = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    assert any(line.get("severity") == "INFO" and "POST /inpaint 204" in line["message"] for line in lines)
    assert all(line.get("severity", line.get("levelname")) in SEVERITIES for line in lines)
    assert not any("?" in line["message"] for line in lines if line.get("serve_access_log")), "no query"


def test_a_jobs_lines_are_found_by_its_id_and_by_its_trace(observed: ObservedService, jobs: Made) -> None:
    made, _ = jobs
    everything = read_all_own(observed)
    for job_id in made.values():
        lines = [line for line in everything if line.get("job") == job_id]
        assert {"claimed", "job ended"} <= {line["message"] for line in lines}
        assert all(line.get("trace") for line in lines), lines
        assert all(len(line["logging.googleapis.com/spanId"]) == 16 for line in lines)
        assert all(line["logging.googleapis.com/trace_sampled"] is True for line in lines)
        traces = {line["trace"] for line in lines if line["message"] == "claimed"}
        assert len(traces) == 1, "all runs of a job are in one trace"


def test_an_error_carries_its_stack_trace(observed: ObservedService, jobs: Made) -> None:
    lines = read_all_own(observed)
    errors = [line for line in lines if line["severity"] == "ERROR" and line["message"] == "defect while answering"]
    assert errors
    for line in errors:
        assert line["stack_trace"].startswith("Traceback (most recent call last):")
        assert line["serviceContext"]["service"] == "pawfect"
        assert line["trace"]
