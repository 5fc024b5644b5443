"""What becomes of a session whose message Pub/Sub gave up."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from serve_app.jobs.exhaustion import PUBLISH_TIME, SENTENCE, SENTENCE_OF_HEADSHOT, Exhaustion, find_headshot
from serve_app.jobs.model import Session
from serve_app.settings import Settings
from serve_app.stores import open_stores

SESSION = Session("user", "session")


@dataclass(frozen=True)
class GivenUp:
    data: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    id: str = "m1"


async def refuse_none(job_id: str, message: str) -> None:
    raise AssertionError(f"{job_id} is no headshot's job")


def encode(values: Any) -> str:
    return base64.b64encode(json.dumps(values).encode()).decode()


ABOUT_IT = encode({"userId": "user", "sessionId": "session"})
LATE, EARLY = {PUBLISH_TIME: "1970-01-01T00:03:20Z"}, {PUBLISH_TIME: "1970-01-01T00:00:20Z"}
DONE = {"jobId": "edit-1", "jobPublishedAt": 100.0, "processingStatus": "completed"}


@pytest.mark.parametrize(
    ("document", "attributes", "shown"),
    [
        ({}, {}, True),
        ({"processingStatus": "processing"}, EARLY, True),
        (DONE, LATE, True),
        (DONE, EARLY, False),
        (DONE, {}, False),
        (DONE, {PUBLISH_TIME: "soon"}, False),
        ({**DONE, "processingStatus": "processing"}, LATE, False),
    ],
)
async def test_it_is_shown_unless_a_later_edit_is(
    tmp_path: Path, document: dict[str, Any], attributes: dict[str, str], shown: bool
) -> None:
    stores = open_stores(Settings(data_dir=tmp_path))
    document = {"petName": "Rex", **document}
    await stores.jobs.put_session(SESSION, document)  # type: ignore[attr-defined]
    await Exhaustion(None, stores.jobs, refuse_none).handle(GivenUp(ABOUT_IT, attributes))  # type: ignore[arg-type]
    failed = {**document, "processingStatus": "failed", "errorMessage": SENTENCE}
    assert await stores.jobs.get_session(SESSION) == (failed if shown else document)
    await stores.close()


@pytest.mark.parametrize("data", ["", "!!!", encode([1]), encode({"userId": "../x", "sessionId": "s"}), ABOUT_IT])
async def test_a_message_about_nothing_is_let_go(tmp_path: Path, data: str) -> None:
    stores = open_stores(Settings(data_dir=tmp_path))
    await Exhaustion(None, stores.jobs, refuse_none).handle(GivenUp(data))  # type: ignore[arg-type]
    assert await stores.jobs.get_session(SESSION) is None
    await stores.close()


@pytest.mark.parametrize("more", [{}, {"userId": "user", "sessionId": "session"}])
async def test_a_headshots_message_says_nothing_of_a_session(tmp_path: Path, more: dict[str, str]) -> None:
    """Whatever else its publisher put into it."""
    stores, refused = open_stores(Settings(data_dir=tmp_path)), []

    async def refuse(job_id: str, message: str) -> None:
        refused.append((job_id, message))

    await stores.jobs.put_session(SESSION, {"petName": "Rex"})  # type: ignore[attr-defined]
    data = encode({"job_id": "a", "orig_key": "a/original/b.jpg", **more})
    await Exhaustion(None, stores.jobs, refuse).handle(GivenUp(data))  # type: ignore[arg-type]
    assert await stores.jobs.get_session(SESSION) == {"petName": "Rex"}
    assert refused == [("a", SENTENCE_OF_HEADSHOT)]
    await stores.close()


@pytest.mark.parametrize("job_id", [None, 7, "", "../a", "__a__", "a" * 129])
def test_an_id_that_no_job_can_have_is_nobodys(job_id: object) -> None:
    assert find_headshot(encode({"job_id": job_id, "orig_key": "a"})) is None
