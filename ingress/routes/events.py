"""`GET /v1/jobs/{job_id}/events`: a job's progress, live."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response

from ingress.callers import REFUSALS, OwnJob
from ingress.event_schemas import SNAPSHOT, describe_stream
from ingress.event_stream import EventStream
from ingress.events import NAMES, has_heard_all, stream
from ingress.job_schemas import PATH
from ingress.problems import describe_problem
from ingress.services import Provided

router = APIRouter(prefix=PATH, tags=["jobs"])

EVENT_ID = r"^[0-9]{0,18}$"
"""Of a client that has heard nothing yet it may be empty."""

EXAMPLE = """retry: 2000

event: step
data: {"job_id":"job-1f0c","status":"processing","stage":"engine","step":3,"steps":28,"eta_s":21.5,"position":null,\
"error":null,"result_url":null}
id: 7

"""

FIELDS = {
    "id": {"type": "string", "description": "the job's version"},
    "retry": {"type": "integer", "description": "milliseconds"},
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The job's events, until it has ended",
        "content": describe_stream(EXAMPLE, dict.fromkeys(NAMES, SNAPSHOT), FIELDS),
    },
    204: {"description": "The job has ended, and the client has heard so; it need not come again"},
    **REFUSALS,
    404: describe_problem("No such job of the caller"),
    422: describe_problem("The id of the job or of the last event is none"),
    503: describe_problem("The job store does not answer; come again"),
}


def read_last_event_id(
    header: Annotated[
        str, Header(alias="Last-Event-ID", pattern=EVENT_ID, description="the last event's id, when coming again")
    ] = "",
    query: Annotated[
        str, Query(alias="last_event_id", pattern=EVENT_ID, description="the same, for clients that cannot set headers")
    ] = "",
) -> int:
    """The header counts, which a browser keeps up to date, before the query of the first request."""
    return int(header or query or 0)


@router.get("/{job_id}/events", response_class=Response, responses=ANSWERS)
async def stream_events(
    job: OwnJob, services: Provided, last_event_id: Annotated[int, Depends(read_last_event_id)]
) -> Response:
    """Server-sent events: snapshots of the job, each with its version as id and one JSON object as data.

    `queued`, `stage`, `step` and `decoding` may skip what lay between two of them; ids only grow. `done`, `failed` or
    `cancelled` always comes, and is the last. With `Last-Event-ID` only newer ones come; 204 when there can be none.
    A stream ends after some minutes without an end of the job: come again.
    """
    if has_heard_all(job, last_event_id):
        return Response(status_code=HTTPStatus.NO_CONTENT)
    return EventStream(stream(job, last_event_id, services.jobs))
