"""A job's events as a caller hears them, across connections (server-sent events, of the HTML standard, 9.2)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx

CONNECT_S = 10.0
SILENCE_S = 45.0
"""A stream says something every 15 s, if only that it is alive; three times that means that it is not."""
RETRY_S = 2.0
"""Pause before a stream is asked for again, as long as the service has not said another."""

FINAL = frozenset({"done", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One snapshot of a job. `id` grows with the job's versions; `data` is the event's JSON object."""

    id: int
    name: str
    data: Mapping[str, Any]

    @property
    def is_final(self) -> bool:
        return self.name in FINAL


async def follow(
    http: httpx.AsyncClient, job_id: str, last_event_id: int | None, *, reconnect: bool
) -> AsyncGenerator[JobEvent]:
    """As `Client.follow`."""
    listener = _Listener(http, job_id, last_event_id)
    while not listener.has_ended:
        try:
            async with aclosing(listener.listen()) as events:
                async for event in events:
                    yield event
        except httpx.TransportError:
            if not reconnect:
                raise
        except httpx.HTTPStatusError as error:
            if not (reconnect and _may_pass(error.response)):
                raise
        if not reconnect:
            return
        if not listener.has_ended:
            await asyncio.sleep(listener.pause_s)


class _Listener:
    """One caller's place in a job's events."""

    def __init__(self, http: httpx.AsyncClient, job_id: str, last_event_id: int | None) -> None:
        self.has_ended = False
        self.pause_s = RETRY_S
        self._http = http
        self._path = f"/v1/jobs/{job_id}/events"
        self._last_event_id = last_event_id

    async def listen(self) -> AsyncGenerator[JobEvent]:
        """The events of one connection. Raises httpx.TransportError and httpx.HTTPStatusError."""
        headers = {} if self._last_event_id is None else {"Last-Event-ID": str(self._last_event_id)}
        timeout = httpx.Timeout(CONNECT_S, read=SILENCE_S)
        async with self._http.stream("GET", self._path, headers=headers, timeout=timeout) as response:
            if response.status_code == HTTPStatus.NO_CONTENT:
                self.has_ended = True
                return
            if response.is_error:
                await response.aread()  # so that whoever catches the error can read why
            response.raise_for_status()
            async with aclosing(_split(response.aiter_lines())) as blocks:
                async for fields in blocks:
                    self.pause_s = int(fields.get("retry", self.pause_s * 1000)) / 1000
                    if "data" in fields:
                        yield self._read(fields)
                    if self.has_ended:
                        return

    def _read(self, fields: Mapping[str, str]) -> JobEvent:
        event = JobEvent(int(fields["id"]), fields["event"], json.loads(fields["data"]))
        self._last_event_id, self.has_ended = event.id, event.is_final
        return event


async def _split(lines: AsyncIterator[str]) -> AsyncGenerator[Mapping[str, str]]:
    """The fields of each block; comments are left out, and a block that was cut off."""
    fields: dict[str, str] = {}
    async for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        else:
            yield fields
            fields = {}


def _may_pass(response: httpx.Response) -> bool:
    """Whether a refusal is worth another try: an outage, a limit, or no word of the service's own but of a proxy before
    it that does not find it yet."""
    is_ours = response.headers.get("content-type") == "application/problem+json"
    status = response.status_code
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS or not is_ours
