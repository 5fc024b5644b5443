"""The service over HTTP, as a caller uses it."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Any, Self

import httpx

from pawfect.job_events import JobEvent, follow

ANSWER_S = 10.0
"""For requests that are answered at once."""
PUSH_S = 600.0
"""Pub/Sub's longest ack deadline: a push is held until the edit has ended."""
TRANSFER_S = 120.0
"""For requests with images in them, or in their answer."""


class Client:
    """`key` is an API key, for a service that wants one. Any number of event streams may be open at a time."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key is not None else None,
            timeout=ANSWER_S,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            trust_env=False,
        )
        # Who holds a signed link needs no key, and the host that it leads to is no business of the key's.
        self._links = httpx.AsyncClient(base_url=url, timeout=TRANSFER_S, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()
        await self._links.aclose()

    async def ready(self) -> tuple[bool, str]:
        """Whether an edit can be done now, and what is in the way."""
        try:
            answer = (await self._http.get("/ready")).json()
        except (httpx.TransportError, json.JSONDecodeError):
            return False, "not answering yet"
        return bool(answer.get("ready")), str(answer.get("reason") or answer.get("state"))

    # -- sessions ----------------------------------------------------------------------------------------------------

    async def push(self, message_id: str, data: dict[str, Any], **message: Any) -> int:
        """Deliver a message as a push subscription would; the status that came back."""
        envelope = {
            "message": {
                "messageId": message_id,
                "data": base64.b64encode(json.dumps(data).encode()).decode(),
                **message,
            },
            "subscription": "projects/local/subscriptions/session-processing-push",
        }
        return (await self._http.post("/inpaint", json=envelope, timeout=PUSH_S)).status_code

    async def edit(self, user_id: str, session_id: str, **options: Any) -> httpx.Response:
        """Ask for the same edit directly, and wait for its end."""
        return await self._http.post(_path(user_id, session_id), json=options, timeout=PUSH_S)

    async def show(self, user_id: str, session_id: str) -> httpx.Response:
        return await self._http.get(_path(user_id, session_id))

    async def cancel(self, user_id: str, session_id: str) -> httpx.Response:
        return await self._http.delete(_path(user_id, session_id))

    # -- jobs --------------------------------------------------------------------------------------------------------

    async def submit_job(
        self, operation: str, *, key: str | None = None, as_form: bool = False, **fields: Any
    ) -> httpx.Response:
        """Ask for a job, with files as bytes under `init_image` and `mask_image`; under the same idempotency `key` it
        may be asked for again. `as_form` sends multipart/form-data instead of JSON with base64."""
        headers = {} if key is None else {"Idempotency-Key": key}
        files = {name: value for name, value in fields.items() if isinstance(value, bytes)}
        texts = {name: value for name, value in fields.items() if name not in files} | {"operation": operation}
        if as_form:
            parts = {name: (name, data) for name, data in files.items()}
            # With no file in it, httpx would send another kind of form.
            whole = {name: (None, str(value)) for name, value in texts.items()} | parts
            return await self._http.post("/v1/jobs", files=whole, headers=headers, timeout=TRANSFER_S)
        body = texts | {name: base64.b64encode(data).decode() for name, data in files.items()}
        return await self._http.post("/v1/jobs", json=body, headers=headers, timeout=TRANSFER_S)

    async def get_job(self, job_id: str) -> httpx.Response:
        return await self._http.get(f"/v1/jobs/{job_id}")

    async def list_jobs(self, **query: str | int) -> httpx.Response:
        """Own jobs, newest first; `limit`, `status`, and `cursor`, the `next_cursor` of the page before."""
        return await self._http.get("/v1/jobs", params=query)

    async def cancel_job(self, job_id: str) -> httpx.Response:
        return await self._http.delete(f"/v1/jobs/{job_id}")

    async def fetch_result(self, job_id: str, *, accept: str = "image/*") -> httpx.Response:
        """The image; as JSON with base64 for `application/json`."""
        return await self._http.get(f"/v1/jobs/{job_id}/result", headers={"Accept": accept}, timeout=TRANSFER_S)

    # -- headshots ---------------------------------------------------------------------------------------------------

    async def make_headshot(self, photo: bytes, file_name: str = "photo", *, key: str | None = None) -> httpx.Response:
        """Wait for a headshot."""
        return await self._post_photo("/headshot", photo, file_name, key, PUSH_S)

    async def ask_for_headshot(
        self, photo: bytes, file_name: str = "photo", *, key: str | None = None
    ) -> httpx.Response:
        return await self._post_photo("/headshot-async", photo, file_name, key, TRANSFER_S)

    async def _post_photo(
        self, path: str, photo: bytes, file_name: str, key: str | None, timeout_s: float
    ) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        return await self._http.post(path, files={"file": (file_name, photo)}, headers=headers, timeout=timeout_s)

    async def get_headshot(self, job_id: str) -> httpx.Response:
        return await self._http.get(f"/headshot/{job_id}")

    async def open_upload(self, content_type: str, file_name: str = "photo") -> httpx.Response:
        """A link for a photo; send that with `upload`, then ask with `start_headshot`."""
        return await self._http.post("/headshot/uploads", json={"content_type": content_type, "file_name": file_name})

    async def upload(self, ticket: dict[str, Any], photo: bytes) -> httpx.Response:
        return await self._links.request(
            ticket["method"], ticket["upload_url"], content=photo, headers=ticket["headers"]
        )

    async def start_headshot(self, job_id: str, orig_key: str) -> httpx.Response:
        """Ask for the headshot of an uploaded photo."""
        return await self._http.post("/headshot-async", json={"job_id": job_id, "orig_key": orig_key})

    async def fetch(self, url: str) -> httpx.Response:
        """What a signed link leads to."""
        return await self._links.get(url)

    async def push_headshot(self, message_id: str, data: dict[str, Any]) -> int:
        """Deliver a message as the headshots' push subscription would; the status that came back."""
        text = base64.b64encode(json.dumps(data).encode()).decode()
        envelope = {
            "message": {"messageId": message_id, "data": text},
            "subscription": "projects/local/subscriptions/perkie-headshot-worker",
        }
        return (await self._http.post("/headshot/push", json=envelope, timeout=PUSH_S)).status_code

    # -- events ------------------------------------------------------------------------------------------------------

    def follow(
        self, job_id: str, last_event_id: int | None = None, *, reconnect: bool = True
    ) -> AsyncGenerator[JobEvent]:
        """The job's events newer than the last one, up to its end; none when that was the last one.

        Comes again after an outage, and when the stream ends before the job does. With `reconnect` off it ends with the
        stream, and raises httpx.TransportError. Raises httpx.HTTPStatusError for a refusal, such as an unknown job.
        """
        return follow(self._http, job_id, last_event_id, reconnect=reconnect)


def _path(user_id: str, session_id: str) -> str:
    return f"/v1/users/{user_id}/sessions/{session_id}/edit"
