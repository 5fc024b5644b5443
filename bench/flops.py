"""Arithmetic of FLUX.1-Fill at true size, counted on torch's meta device: shapes without numbers, so without weights.

One FLOP is one addition or one multiplication; a multiply-add is two. Counted are matrix products, convolutions and
attention (4 · heads · tokens² · width of a head), a convolution's padding as if it were image; elementwise operations,
norms and softmax are not. Batch 1. A TFLOP is 10¹² FLOP.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch.utils.flop_counter import FlopCounterMode

IN_CHANNELS = 384  # of an image token: 64 of the noise, 64 of the masked image, 256 of the mask
TEXT_WIDTH = 4096  # of a T5-XXL token's embedding
POOLED_WIDTH = 768  # of CLIP-L's
LATENT_CHANNELS = 16
_LATENT_PX = 8  # model pixels along a side of one latent pixel
_TOKEN_PX = 16  # and of one image token


def transformer_tflop(width: int, height: int, text_tokens: int) -> float:
    """TFLOP of one denoising step for a crop of so many model pixels, sides multiples of 16.

    Guidance is distilled into the model, so a step is one pass. Raises ValueError for any other side.
    """
    _check(width, height)
    return _step(width // _TOKEN_PX * (height // _TOKEN_PX), text_tokens)


@cache
def vae_encode_tflop(width: int, height: int) -> float:
    """TFLOP of bringing one RGB image to latents; sides in model pixels, multiples of 16, else ValueError."""
    _check(width, height)
    image = torch.empty(1, 3, height, width, device="meta")
    return _count(lambda: make_vae().encode(image))


@cache
def vae_decode_tflop(width: int, height: int) -> float:
    """TFLOP of bringing latents to one RGB image; sides in model pixels, multiples of 16, else ValueError."""
    _check(width, height)
    latents = torch.empty(1, LATENT_CHANNELS, height // _LATENT_PX, width // _LATENT_PX, device="meta")
    return _count(lambda: make_vae().decode(latents))


@cache
def _step(image_tokens: int, text_tokens: int) -> float:
    """Cached by tokens, because a crop's proportions change nothing; a count takes about a second."""
    with torch.device("meta"):
        inputs = {
            "hidden_states": torch.empty(1, image_tokens, IN_CHANNELS),
            "encoder_hidden_states": torch.empty(1, text_tokens, TEXT_WIDTH),
            "pooled_projections": torch.empty(1, POOLED_WIDTH),
            "timestep": torch.empty(1),
            "guidance": torch.empty(1),
            "img_ids": torch.empty(image_tokens, 3),
            "txt_ids": torch.empty(text_tokens, 3),
        }
    return _count(lambda: make_transformer()(**inputs))


def _count(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter, torch.device("meta"), torch.no_grad():
        run()
    return float(counter.get_total_flops() / 1e12)


def _check(width: int, height: int) -> None:
    if width < _TOKEN_PX or height < _TOKEN_PX or width % _TOKEN_PX or height % _TOKEN_PX:
        raise ValueError(f"A crop of {width} × {height} pixels cannot be counted; sides are multiples of {_TOKEN_PX}.")


@cache
def make_transformer() -> Any:
    """On meta, as in the file `transformer/config.json` of FLUX.1-Fill-dev: 11.9 billion parameters."""
    with torch.device("meta"):
        return FluxTransformer2DModel(
            patch_size=1,
            in_channels=IN_CHANNELS,
            out_channels=64,
            num_layers=19,
            num_single_layers=38,
            attention_head_dim=128,
            num_attention_heads=24,
            joint_attention_dim=TEXT_WIDTH,
            pooled_projection_dim=POOLED_WIDTH,
            guidance_embeds=True,
            axes_dims_rope=(16, 56, 56),
        )


@cache
def make_vae() -> Any:
    """On meta, as in its `vae/config.json`: 84 million parameters."""
    with torch.device("meta"):
        return AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=LATENT_CHANNELS,
            norm_num_groups=32,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
