"""A loaded FLUX.1 as the engine sees it: a sample is encoded, stepped, possibly beside others, and decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from serve_app.engines.protocol import Image
from serve_app.errors import EngineFailed, OutOfMemory, OutputInvalid
from serve_app.flux import denoise
from serve_app.flux.admission import SampleSpec
from serve_app.flux.loading import Parts
from serve_app.flux.memory import Memory, is_out_of_memory, read_memory
from serve_app.flux.spec import ModelSpec
from serve_app.flux.text import TextEmbedding

State = TypeVar("State")


class Model(Protocol, Generic[State]):
    """`State` is whatever a model keeps of a sample between its calls; it is never changed in place, so a call that
    failed may be made again. Not for concurrent calls. Every method raises EngineFailed."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def uses_accelerator(self) -> bool: ...

    def memory(self) -> Memory | None:
        """None on a CPU. Does not wait for the device, and never raises."""

    def encode(self, sample: SampleSpec, text: TextEmbedding, negative: TextEmbedding | None) -> State:
        """The sample before its first step."""

    def step(self, states: Sequence[State]) -> list[State | OutputInvalid]:
        """Each of them one step on, or what is wrong with it. They have the same size and text length."""

    def decode(self, state: State) -> Image: ...


@dataclass(frozen=True, slots=True, eq=False)
class Latents:
    """One image between two steps, on the device. `tokens` [1, N, 64]; `condition` [1, N, 320] for Fill: the masked
    image's latents and the mask; `sigmas` [n + 1] float32, of which `done` steps are behind it."""

    tokens: Tensor
    condition: Tensor | None
    ids: Tensor
    grid: denoise.Grid
    text: TextEmbedding
    negative: TextEmbedding | None
    sigmas: Tensor
    guidance: float
    true_cfg: float
    done: int = 0


class FluxModel:
    """A `Model[Latents]`.

    A sample's result depends on its own seed and inputs. What its neighbours in a batch change is rounding: in latents,
    whose deviation is about 1, at most 1e-9 in float64, 2e-3 in float32 and 0.1 in bfloat16.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._device = parts.device
        self._dtype = parts.dtype

    @property
    def spec(self) -> ModelSpec:
        return self._parts.spec

    @property
    def uses_accelerator(self) -> bool:
        return self._device.type != "cpu"

    def memory(self) -> Memory | None:
        return read_memory(self._device)

    def encode(self, sample: SampleSpec, text: TextEmbedding, negative: TextEmbedding | None) -> Latents:
        with self._working("encode"):
            # The order of the draws is that of diffusers' pipelines: original, noise, masked image.
            generator = torch.Generator("cpu").manual_seed(sample.seed)
            of_image = self._draw(generator, sample) if sample.image is not None else None
            noise = self._draw(generator, sample)
            sigmas = denoise.make_sigmas(self._parts.scheduler, sample.steps, sample.grid, sample.strength)
            start, condition = noise, None
            if sample.mask is not None:
                condition = self._encode_condition(sample, self._draw(generator, sample))
            elif sample.image is not None and of_image is not None:
                clean = self._encode_pixels(denoise.image_to_tensor(sample.image), of_image)
                start = denoise.add_noise(clean, noise, sigmas[0])
            return Latents(
                tokens=denoise.pack(start),
                condition=condition,
                ids=denoise.position_ids(sample.grid).to(self._device, self._dtype),
                grid=sample.grid,
                text=self._place(text),
                negative=self._place(negative) if negative is not None and sample.rows == 2 else None,
                sigmas=sigmas,
                guidance=sample.guidance,
                true_cfg=sample.true_cfg,
            )

    def step(self, states: Sequence[Latents]) -> list[Latents | OutputInvalid]:
        with self._working("step"):
            velocities = self._predict([(state, state.text) for state in states])
            doubled = [state for state in states if state.negative is not None]
            against = iter(self._predict([(state, state.negative) for state in doubled if state.negative is not None]))
            stepped = []
            for state, velocity in zip(states, velocities, strict=True):
                if state.negative is not None:
                    velocity = denoise.guide(velocity, next(against), state.true_cfg)  # noqa: PLW2901
                sigma, next_sigma = state.sigmas[state.done], state.sigmas[state.done + 1]
                stepped.append(denoise.move(state.tokens, velocity, sigma, next_sigma))
            finite = torch.stack([tokens.isfinite().all() for tokens in stepped]).tolist()
        return [
            replace(state, tokens=tokens, done=state.done + 1) if fine else _not_a_number(state)
            for state, tokens, fine in zip(states, stepped, finite, strict=True)
        ]

    def decode(self, state: Latents) -> Image:
        with self._working("decode"):
            config = self._parts.vae.config
            latents = denoise.unpack(state.tokens, state.grid) / config.scaling_factor + config.shift_factor
            pixels = self._parts.vae.decode(latents, return_dict=False)[0]
            if not bool(pixels.isfinite().all()):
                raise OutputInvalid("the decoded image has values that are not numbers")
            return denoise.tensor_to_image(pixels)

    # -- parts of the above --------------------------------------------------------------------------------------------

    def _predict(self, rows: Sequence[tuple[Latents, TextEmbedding]]) -> list[Tensor]:
        """The velocity [1, N, 64] of each row; one call of the transformer per length of text, which is one call unless
        a negative prompt is longer than its prompt."""
        velocities: dict[int, Tensor] = {}
        order = sorted(range(len(rows)), key=lambda i: rows[i][1].length)
        for _, group in groupby(order, key=lambda i: rows[i][1].length):
            members = list(group)
            for i, velocity in zip(members, torch.split(self._call([rows[i] for i in members]), 1), strict=True):
                velocities[i] = velocity
        return [velocities[i] for i in range(len(rows))]

    def _call(self, rows: Sequence[tuple[Latents, TextEmbedding]]) -> Tensor:
        states = [state for state, _ in rows]
        sigmas = torch.stack([state.sigmas[state.done] for state in states]).to(self._device)
        guidance = torch.tensor([state.guidance for state in states], dtype=torch.float32, device=self._device)
        inputs = [
            state.tokens if state.condition is None else torch.cat((state.tokens, state.condition), dim=2)
            for state in states
        ]
        length = rows[0][1].length
        velocity: Tensor = self._parts.transformer(
            hidden_states=torch.cat(inputs),
            timestep=denoise.as_timestep(sigmas, self._dtype),
            guidance=guidance if self.spec.has_guidance else None,
            pooled_projections=torch.stack([text.pooled for _, text in rows]),
            encoder_hidden_states=torch.stack([text.tokens for _, text in rows]),
            txt_ids=torch.zeros(length, 3, device=self._device, dtype=self._dtype),
            img_ids=states[0].ids,
            return_dict=False,
        )[0]
        return velocity

    def _draw(self, generator: torch.Generator, sample: SampleSpec) -> Tensor:
        return denoise.draw_noise(generator, sample.grid, self._dtype).to(self._device)

    def _encode_condition(self, sample: SampleSpec, noise: Tensor) -> Tensor:
        assert sample.image is not None and sample.mask is not None  # noqa: PT018
        mask = denoise.mask_to_tensor(sample.mask)
        seen = denoise.image_to_tensor(sample.image) * (1 - mask)
        latents = denoise.pack(self._encode_pixels(seen, noise))
        return torch.cat((latents, denoise.pack_mask(mask).to(self._device, self._dtype)), dim=2)

    def _encode_pixels(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """[1, 3, H, W] in [-1, 1] → latents [1, 16, H/8, W/8], drawn from the VAE's distribution with `noise`."""
        vae = self._parts.vae
        distribution = vae.encode(pixels.to(self._device, self._dtype)).latent_dist
        drawn = distribution.mean + distribution.std * noise
        latents: Tensor = (drawn - vae.config.shift_factor) * vae.config.scaling_factor
        return latents

    def _place(self, text: TextEmbedding) -> TextEmbedding:
        return TextEmbedding(
            text.tokens.to(self._device, self._dtype, non_blocking=True),
            text.pooled.to(self._device, self._dtype, non_blocking=True),
        )

    @contextmanager
    def _working(self, what: str) -> Iterator[None]:
        """Wait for the device at the end, so that times are true and errors belong to the call that made them."""
        try:
            with torch.inference_mode():
                yield
                if self._device.type == "cuda":
                    torch.cuda.synchronize(self._device)
        except (RuntimeError, ValueError) as error:
            if is_out_of_memory(error):
                torch.cuda.empty_cache()
                raise OutOfMemory(f"the accelerator's memory did not suffice to {what}: {error}") from error
            raise EngineFailed(f"the model failed to {what}: {error}") from error


def _not_a_number(state: Latents) -> OutputInvalid:
    return OutputInvalid(f"the model's output went to values that are not numbers at step {state.done + 1}")
