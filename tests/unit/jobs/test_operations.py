"""What a run asks its engine for, and what it makes of the answer, per operation."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serve_app.clock import Laps
from serve_app.engines.protocol import EngineResult, FillRequest, ImageToImageRequest, TextToImageRequest
from serve_app.errors import EngineFailed, PhotoUnreadable
from serve_app.jobs.model import Job, Operation, Parameters, Priority
from serve_app.jobs.operations import Inputs, start
from serve_app.settings import Settings
from tests.photos import make_mask, make_photo, make_pixels

SETTINGS = Settings(_env_file=None)


def make_job(operation: Operation, **parameters: Any) -> Job:
    values = {"quality": "low", "prompt": "a dog", "steps": 7, "guidance_scale": 3.5, "seed": 11, **parameters}
    return Job(
        id="job-1",
        session=None,
        original_generation="1",
        mask_generation="1",
        parameters=Parameters(**values),
        created_at=100.0,
        published_at=100.0,
        deadline_at=200.0,
        priority=Priority.URGENT,
        operation=operation,
        attempts=2,
    )


def answer(*images: np.ndarray) -> EngineResult:
    return EngineResult(images, 1.0, 0.0)


def open_image(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_an_inpainting_in_the_format_asked_for_has_no_preview() -> None:
    job = make_job(Operation.INPAINT, output_format="png", negative_prompt="rope", true_cfg=2.0)
    photo = make_photo()
    started = start(job, Inputs(photo, make_mask()), SETTINGS, Laps(), keep_frame=True)
    request = started.request
    assert isinstance(request, FillRequest)
    assert (request.request_id, request.seed, request.priority, request.deadline_at) == ("job-1/2", 11, 0, 200.0)
    assert (request.negative_prompt, request.true_cfg, request.steps, request.guidance) == ("rope", 2.0, 7, 3.5)
    output = started.without_frame().finish(answer(*(np.zeros_like(crop.image) for crop in request.crops)), Laps())
    edited, before = open_image(output.result), np.asarray(open_image(photo).convert("RGB"))
    assert (edited.format, edited.size, output.preview) == ("PNG", (160, 120), None)
    changed = np.asarray(edited) != before
    assert changed.any()
    assert not changed[:20].any(), "a PNG keeps what is not masked to the bit"


@pytest.mark.parametrize("output_format", ["jpeg", "png", "webp"])
def test_a_generation_is_encoded_as_asked(output_format: str) -> None:
    job = make_job(Operation.GENERATE, width=320, height=256, output_format=output_format)
    started = start(job, Inputs(None, None), SETTINGS, Laps(), keep_frame=False)
    request = started.request
    assert isinstance(request, TextToImageRequest)
    assert (request.width, request.height) == (320, 256)
    output = started.finish(answer(make_pixels(320, 256)), Laps())
    assert (open_image(output.result).format, open_image(output.result).size) == (output_format.upper(), (320, 256))


@pytest.mark.parametrize(("size", "wanted"), [({}, (384, 288)), ({"width": 256, "height": 320}, (256, 320))])
def test_a_transformation_is_of_the_image_at_a_models_size(size: dict[str, int], wanted: tuple[int, int]) -> None:
    job = make_job(Operation.TRANSFORM, strength=0.4, **size)
    laps = Laps()
    started = start(job, Inputs(make_photo(384, 288), None), SETTINGS, laps, keep_frame=False)
    request = started.request
    assert isinstance(request, ImageToImageRequest)
    assert (request.image.shape[1], request.image.shape[0], request.strength) == (*wanted, 0.4)
    assert laps.seconds["decode"] > 0


def test_an_answer_that_is_no_picture_fails() -> None:
    started = start(
        make_job(Operation.GENERATE, width=64, height=64), Inputs(None, None), SETTINGS, Laps(), keep_frame=False
    )
    with pytest.raises(EngineFailed):
        started.finish(answer(), Laps())
    with pytest.raises(EngineFailed):
        started.finish(answer(np.zeros((64, 64), np.uint8)), Laps())


def test_an_image_that_is_none_is_said_by_its_name() -> None:
    with pytest.raises(PhotoUnreadable, match="init_image"):
        start(make_job(Operation.TRANSFORM), Inputs(b"\xff\xd8\xffno", None), SETTINGS, Laps(), keep_frame=False)
