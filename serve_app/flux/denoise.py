"""The arithmetic of FLUX.1 around its transformer and VAE, as pure functions.

One token stands for 16 × 16 pixels: the VAE makes 8 × 8 pixels one latent of 16 channels, and 2 × 2 latents are packed
into a token of 64. Noise, schedule and packing are those of diffusers' FluxPipeline, FluxImg2ImgPipeline and
FluxFillPipeline (0.42); the schedule's shift is from Esser et al., "Scaling Rectified Flow Transformers for
High-Resolution Image Synthesis", 2024.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from serve_app.engines.protocol import Image, Mask

TOKEN_PX = 16
LATENT_PX = 8
LATENT_CHANNELS = 16
TIMESTEPS = 1000  # the training schedule's length: the transformer is told sigma as a share of it

Grid = tuple[int, int]
"""Rows and columns of tokens."""


def grid_of(width: int, height: int) -> Grid:
    """Sides in pixels, multiples of 16."""
    return height // TOKEN_PX, width // TOKEN_PX


def image_to_tensor(image: Image) -> Tensor:
    """[H, W, 3] uint8 RGB → [1, 3, H, W] float32 in [-1, 1]; channels stay last in memory, as convolutions like it."""
    scaled = torch.from_numpy(np.ascontiguousarray(image)[None]).permute(0, 3, 1, 2).to(torch.float32) / 255.0
    return 2.0 * scaled - 1.0


def tensor_to_image(pixels: Tensor) -> Image:
    """[1, 3, H, W] in [-1, 1], clipped → [H, W, 3] uint8 RGB."""
    scaled = (pixels[0].to(torch.float32) * 0.5 + 0.5).clamp(0, 1)
    image: Image = (scaled * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return image


def mask_to_tensor(mask: Mask) -> Tensor:
    """[H, W] uint8 → [1, 1, H, W] float32: 1 where the mask is at least half set, which is to be painted, else 0."""
    return torch.from_numpy(np.ascontiguousarray(mask >= 128))[None, None].to(torch.float32)


def pack(latents: Tensor) -> Tensor:
    """[B, C, 2r, 2c] → [B, r·c, 4·C]: each 2 × 2 square of latents becomes one token."""
    batch, channels, height, width = latents.shape
    squares = latents.view(batch, channels, height // 2, 2, width // 2, 2)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(batch, (height // 2) * (width // 2), channels * 4)


def unpack(tokens: Tensor, grid: Grid) -> Tensor:
    """The inverse of `pack` for r rows and c columns of tokens."""
    batch, _, channels = tokens.shape
    rows, columns = grid
    squares = tokens.view(batch, rows, columns, channels // 4, 2, 2)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, rows * 2, columns * 2)


def pack_mask(mask: Tensor) -> Tensor:
    """[1, 1, H, W] → [1, H·W/256, 256]: a mask is not encoded; a latent keeps its 8 × 8 pixels as channels."""
    _, _, height, width = mask.shape
    blocks = mask.view(1, height // LATENT_PX, LATENT_PX, width // LATENT_PX, LATENT_PX)
    return pack(blocks.permute(0, 2, 4, 1, 3).reshape(1, LATENT_PX**2, height // LATENT_PX, width // LATENT_PX))


def position_ids(grid: Grid) -> Tensor:
    """[r·c, 3] float32: 0, row and column of each token; text tokens are at (0, 0, 0)."""
    rows, columns = grid
    ids = torch.zeros(rows, columns, 3)
    ids[..., 1] = torch.arange(rows)[:, None]
    ids[..., 2] = torch.arange(columns)[None, :]
    return ids.reshape(rows * columns, 3)


def draw_noise(generator: torch.Generator, grid: Grid, dtype: torch.dtype) -> Tensor:
    """[1, 16, 2r, 2c] standard normal. On the CPU whatever the device, so that a seed means the same everywhere."""
    return torch.randn((1, LATENT_CHANNELS, grid[0] * 2, grid[1] * 2), generator=generator, dtype=dtype)


def make_sigmas(scheduler: Any, steps: int, grid: Grid, strength: float = 1.0) -> Tensor:
    """Noise levels [n + 1] float32 on the CPU, falling to 0, for the n of `steps` steps that `strength` leaves.

    `scheduler` is diffusers' FlowMatchEulerDiscreteScheduler; it is set anew and keeps nothing of this job.
    """
    config = scheduler.config
    tokens = grid[0] * grid[1]
    least, most = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (high - low) / (most - least)
    shift = tokens * slope + (low - least * slope)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=shift)
    sigmas: Tensor = scheduler.sigmas
    return sigmas[steps - count_steps(steps, strength) :].clone()


def count_steps(steps: int, strength: float) -> int:
    """How many of the steps are run when only a share of the noise is put on an image; at least 0."""
    return steps - int(max(steps - min(steps * strength, steps), 0))


def add_noise(latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The straight line of a rectified flow at `sigma`: the clean latents at 0, the noise at 1."""
    level = sigma.to(device=latents.device, dtype=latents.dtype)
    return level * noise + (1.0 - level) * latents


def guide(with_prompt: Tensor, against_prompt: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance of two velocities."""
    return against_prompt + scale * (with_prompt - against_prompt)


def move(tokens: Tensor, velocity: Tensor, sigma: Tensor, next_sigma: Tensor) -> Tensor:
    """One Euler step from `sigma` to `next_sigma`, in float32, back in the dtype of `tokens`.

    `tokens` and `velocity` [B, N, 64]; the levels are scalars or [B, 1, 1].
    """
    return (tokens.to(torch.float32) + (next_sigma - sigma) * velocity.to(torch.float32)).to(tokens.dtype)


def as_timestep(sigma: Tensor, dtype: torch.dtype) -> Tensor:
    """What the transformer is told of a noise level; rounded in the model's dtype at the training schedule's scale."""
    return (sigma * TIMESTEPS).to(dtype) / TIMESTEPS
