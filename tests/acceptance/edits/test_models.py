"""What a service without checkpoints says of the models that it lacks."""

from __future__ import annotations

import pytest

from pawfect.client import Client

pytestmark = pytest.mark.serve


async def test_without_a_model_that_can_it_is_said_how_to_have_one(client: Client) -> None:
    answer = await client.submit_job("ImageGeneration", prompt="a dog", width=96, height=64)
    assert (answer.status_code, answer.json()["field"]) == (422, "operation")
    assert "flux-dev, name its checkpoint in PAWFECT_FLUX__CHECKPOINTS" in answer.json()["detail"]
