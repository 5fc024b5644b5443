"""Wall time of a photo on the CPU, the replaced way over ours, with the tiny model.

Both do 28 steps at the same model pixels per photo pixel: the replaced way sends the whole frame, shrunk to 1024 × 768,
through FluxFillPipeline; ours sends the crops around the mask through the engine. One photo at a time, prompts known
beforehand to both. `cpu_wall_ratio` is the median over the masks of `bench.equal_detail` of the replaced way's median
time over ours for that mask. The tiny model's VAE costs more beside its transformer than the real one's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import FluxFillPipeline
from PIL import Image

from bench.dispatch import PROMPT, Queue, Tiny, make_request, open_tiny
from bench.equal_detail import (
    EQUAL,
    REPLACED_HEIGHT,
    REPLACED_WIDTH,
    TEXT_TOKENS,
    make_clips,
    make_leashes,
    plan_regions,
)
from bench.report import print_figures
from serve_app.editing.region import Region
from serve_app.engines.protocol import Crop, Done
from serve_app.flux.stepping import Limits

LIMITS = Limits()
REPLACED_EVERY = 4
"""The replaced way is timed again after so many of our photos: it does not depend on the mask, and takes longest."""


def measure(tiny: Tiny) -> dict[str, float]:
    """The ratio, and medians in milliseconds (`…_ms`)."""
    leashes = [plan_regions(file, EQUAL) for file in make_leashes()]
    clips = [plan_regions(file, EQUAL) for file in make_clips()]
    replaced, ours = [], []
    replace = _prepare_replaced(tiny)
    with tiny.engine(LIMITS) as engine:
        queue = Queue(engine, LIMITS)
        _time(lambda: _edit(queue, "warm-up", clips[0]))
        for number, regions in enumerate(leashes + clips):
            if number % REPLACED_EVERY == 0:
                replaced.append(_time(replace))
            ours.append(_time(lambda name=f"photo-{number}", regions=regions: _edit(queue, name, regions)))  # type: ignore[misc]
    base = statistics.median(replaced)
    ratios = [base / seconds for seconds in ours]
    return {
        "cpu_wall_ratio": statistics.median(ratios),
        "cpu_wall_leash": statistics.median(ratios[: len(leashes)]),
        "cpu_wall_clip": statistics.median(ratios[len(leashes) :]),
        "cpu_wall_total": base * len(ours) / sum(ours),
        "cpu_wall_replaced_ms": base * 1000,
        "cpu_wall_ours_ms": statistics.median(ours) * 1000,
    }


def _edit(queue: Queue, name: str, regions: list[Region]) -> None:
    crops = tuple(_crop(*region.size) for region in regions)
    request = make_request(name, crops, EQUAL.steps)
    ticket = queue.offer(request)
    ticket.done.wait()
    assert isinstance(ticket.event, Done), ticket.event


def _crop(width: int, height: int) -> Crop:
    """Times do not depend on what a picture shows, nor on where its mask is."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[64:-64, 64:-64] = 255
    return Crop(image, mask)


def _prepare_replaced(tiny: Tiny) -> Callable[[], Any]:
    pipeline = FluxFillPipeline.from_pretrained(tiny.folder, local_files_only=True, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    with torch.no_grad():
        tokens, pooled, _ = pipeline.encode_prompt(PROMPT, max_sequence_length=TEXT_TOKENS)
    crop = _crop(REPLACED_WIDTH, REPLACED_HEIGHT)
    return lambda: pipeline(
        prompt_embeds=tokens,
        pooled_prompt_embeds=pooled,
        image=Image.fromarray(crop.image),
        mask_image=Image.fromarray(crop.mask),
        width=REPLACED_WIDTH,
        height=REPLACED_HEIGHT,
        num_inference_steps=EQUAL.steps,
        guidance_scale=EQUAL.guidance,
        generator=torch.Generator("cpu").manual_seed(0),
    )


def _time(work: Callable[[], Any]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


def main() -> None:
    with open_tiny() as tiny:
        result = measure(tiny)
    print_figures(result)


if __name__ == "__main__":
    main()
