"""The engine's pictures are those of diffusers' own pipelines, and nobody's company changes them.

The tiny checkpoint has the true architecture, so every part of the arithmetic is met: packing, positions, the mask's
channels, the shifted schedule, guidance, the order in which noise is drawn.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxFillPipeline, FluxImg2ImgPipeline, FluxPipeline
from numpy.typing import NDArray
from PIL import Image as Pillow

from serve_app.engines.protocol import (
    Crop,
    Done,
    Event,
    FillRequest,
    ImageToImageRequest,
    Request,
    TextToImageRequest,
)
from serve_app.flux.admission import make_samples
from serve_app.flux.checkpoint import Checkpoint
from serve_app.flux.engine import FluxEngine
from serve_app.flux.loading import load_parts
from serve_app.flux.model import FluxModel, Latents
from serve_app.flux.spec import SPECS
from serve_app.flux.stepping import Limits
from serve_app.flux.text import TextEmbedding
from serve_app.metrics import PlainSink

WIDTH, HEIGHT = 320, 256
PROMPT, NEGATIVE = "a dog on grass, no leash", "a bad cat"
SINGLE = {"float32": 1e-5, "bfloat16": 0.05}
"""Largest difference of a latent (its values have a deviation of about 1) between the engine and a pipeline. Of
bfloat16 that is three units in the last place: the pipeline multiplies by the step's length in it, we in float32."""
BATCH = {"float64": 1e-9, "float32": 2e-3, "bfloat16": 0.1}
"""The same between a sample in company and the sample alone."""


def make_crop(seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> Crop:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[height // 3 : height // 2, width // 5 : width // 2] = 255
    return Crop(image, mask)


def fill(seed: int = 3, steps: int = 6, guidance: float = 30.0, crop: Crop | None = None) -> FillRequest:
    crops = (crop or make_crop(),)
    return FillRequest(request_id=f"f{seed}", prompt=PROMPT, steps=steps, guidance=guidance, seed=seed, crops=crops)


class Loaded:
    """A pipeline and our model of one checkpoint, and the pipeline's embeddings for both."""

    def __init__(self, folder: Path, name: str, dtype: torch.dtype) -> None:
        pipeline = FluxFillPipeline if name == "flux-fill-dev" else FluxPipeline
        self.pipeline = pipeline.from_pretrained(folder, local_files_only=True, dtype=dtype)
        self.pipeline.set_progress_bar_config(disable=True)
        parts = load_parts(
            Checkpoint(folder, "tiny"),
            SPECS[name],
            device="cpu",
            dtype="float32",
            quantization="none",
            memory_share=None,
        )
        self.model = FluxModel(
            replace(parts, transformer=parts.transformer.to(dtype), vae=parts.vae.to(dtype), dtype=dtype)
        )

    def embed(self, prompt: str) -> TextEmbedding:
        with torch.no_grad():
            tokens, pooled, _ = self.pipeline.encode_prompt(prompt, max_sequence_length=128)
        return TextEmbedding(tokens[0], pooled[0])

    def request(self, prompt: str) -> Future[TextEmbedding]:
        done: Future[TextEmbedding] = Future()
        done.set_result(self.embed(prompt))
        return done

    def start(self, request: Request) -> Latents:
        negative = self.embed(request.negative_prompt) if request.negative_prompt else None
        return self.model.encode(make_samples(request, self.model.spec)[0], self.embed(request.prompt), negative)

    def finish(self, *states: Latents) -> list[Latents]:
        """Step them together; each leaves when it is done."""
        now = list(states)
        while live := [i for i, state in enumerate(now) if state.done < len(state.sigmas) - 1]:
            for i, state in zip(live, self.model.step([now[i] for i in live]), strict=True):
                assert isinstance(state, Latents)
                now[i] = state
        return now


def load(folder: Path, name: str, dtype: torch.dtype = torch.float32) -> Loaded:
    return Loaded(folder, name, dtype)


@pytest.fixture(scope="module")
def filling(tiny_fill: Path) -> Loaded:
    return load(tiny_fill, "flux-fill-dev")


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Loaded:
    return load(tiny_base, "flux-dev")


def ask(pipeline: Any, request: Request, output: str, **inputs: Any) -> Any:
    return pipeline(
        prompt=request.prompt,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        generator=torch.Generator("cpu").manual_seed(request.seed),
        max_sequence_length=128,
        output_type=output,
        **inputs,
    ).images


def ask_fill(loaded: Loaded, request: FillRequest, output: str = "latent") -> Any:
    crop = request.crops[0]
    image, mask = Pillow.fromarray(crop.image), Pillow.fromarray(crop.mask)
    return ask(loaded.pipeline, request, output, image=image, mask_image=mask)


def distance(ours: Latents, theirs: torch.Tensor) -> float:
    return float((ours.tokens - theirs).abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fill_is_the_pipelines(tiny_fill: Path, dtype: torch.dtype) -> None:
    loaded = load(tiny_fill, "flux-fill-dev", dtype)
    (ours,) = loaded.finish(loaded.start(fill()))
    theirs = ask_fill(loaded, fill())
    assert float(theirs.float().std()) > 0.5  # not a comparison of nothing with nothing
    assert distance(ours, theirs) <= SINGLE[str(dtype).removeprefix("torch.")]


@pytest.mark.parametrize("true_cfg", [1.0, 2.5])
def test_text_to_image_is_the_pipelines(base: Loaded, true_cfg: float) -> None:
    request = TextToImageRequest(
        request_id="t", prompt=PROMPT, steps=5, guidance=3.5, seed=4, width=WIDTH, height=HEIGHT,
        negative_prompt=NEGATIVE, true_cfg=true_cfg,
    )  # fmt: skip
    (ours,) = base.finish(base.start(request))
    theirs = ask(base.pipeline, request, "latent", negative_prompt=NEGATIVE, true_cfg_scale=true_cfg)
    assert distance(ours, theirs) <= SINGLE["float32"]


@pytest.mark.parametrize(("strength", "steps", "runs"), [(1.0, 5, 5), (0.6, 7, 5), (0.3, 4, 2)])
def test_image_to_image_is_the_pipelines(base: Loaded, strength: float, steps: int, runs: int) -> None:
    image = make_crop(9).image
    request = ImageToImageRequest(
        request_id="i", prompt=PROMPT, steps=steps, guidance=3.5, seed=5, image=image, strength=strength
    )
    (ours,) = base.finish(base.start(request))
    pipeline = FluxImg2ImgPipeline(**base.pipeline.components)
    pipeline.set_progress_bar_config(disable=True)
    theirs = ask(pipeline, request, "latent", image=Pillow.fromarray(image), strength=strength)
    assert ours.done == runs
    assert distance(ours, theirs) <= SINGLE["float32"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_company_changes_rounding_only(tiny_fill: Path, dtype: torch.dtype) -> None:
    """Four seeds, guidances and numbers of steps, joining at different times."""
    loaded = load(tiny_fill, "flux-fill-dev", dtype)
    requests = [
        fill(seed, steps, guidance) for seed, (steps, guidance) in enumerate([(6, 30), (4, 5), (9, 12), (3, 1)])
    ]
    alone = [loaded.finish(loaded.start(request))[0] for request in requests]
    first, *others = (loaded.start(request) for request in requests)
    for _ in range(2):
        (first,) = loaded.model.step([first])  # type: ignore[assignment]
    together = loaded.finish(first, *others)
    bound = BATCH[str(dtype).removeprefix("torch.")]
    assert max(distance(a, b.tokens) for a, b in zip(together, alone, strict=True)) <= bound
    assert min(distance(together[0], other.tokens) for other in alone[1:]) > 1  # another seed is another picture


def test_a_step_changes_nothing_in_place(filling: Loaded) -> None:
    """So a call that failed can be made again, and a run that is repeated ends the same."""
    start = filling.start(fill())
    before = start.tokens.clone()
    once, again = filling.finish(start)[0], filling.finish(start)[0]
    assert torch.equal(start.tokens, before)
    assert torch.equal(once.tokens, again.tokens)


# -- through the engine ------------------------------------------------------------------------------------------------


class Listener:
    def __init__(self) -> None:
        self.events: queue.Queue[Event] = queue.Queue()

    def image(self) -> NDArray[np.uint8]:
        while True:
            event = self.events.get(timeout=60)
            if isinstance(event, Done):
                return event.result.images[0]
            assert type(event).__name__ in ("Queued", "Step", "Decoding"), event


@pytest.fixture
def engine(filling: Loaded) -> Iterator[FluxEngine]:
    engine = FluxEngine(filling.model, filling, Limits(places=4, rows=4, tokens=4096), sink=PlainSink())
    yield engine
    engine.close()


def run(engine: FluxEngine, *requests: Request) -> list[NDArray[np.uint8]]:
    listeners = [Listener() for _ in requests]
    for request, listener in zip(requests, listeners, strict=True):
        engine.submit(request, listener.events.put)
    return [listener.image() for listener in listeners]


def test_the_engines_picture_is_the_pipelines(engine: FluxEngine, filling: Loaded) -> None:
    (ours,) = run(engine, fill())
    theirs = (ask_fill(filling, fill(), "np")[0] * 255).round().astype(np.uint8)
    assert np.array_equal(ours, theirs)


def test_neighbours_and_overtaking_leave_a_picture_as_it_is(engine: FluxEngine) -> None:
    wanted = fill(seed=3, steps=12)
    (alone,) = run(engine, wanted)
    urgent = replace(fill(seed=8, crop=make_crop(1, 256, 256)), priority=0)
    others = [replace(fill(seed=seed, steps=20, crop=make_crop(seed)), submitted_at=1.0) for seed in (5, 6)]
    accompanied, *_ = run(engine, wanted, *others, urgent)
    assert np.abs(accompanied.astype(int) - alone.astype(int)).max() <= 1
