"""FLUX.1 at 1/2000 of its width: the true architecture with random weights, a few megabytes, built without a network.

It writes a folder as the hub has it, so loading, encoding, stepping and decoding run as they do with real weights. Its
pictures are noise.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

TEXT_WIDTH = 32  # of a T5 token's embedding; 4096 in the real one
POOLED_WIDTH = 32  # of CLIP's; 768 in the real one
_LETTERS = "abcdefghijklmnopqrstuvwxyz"

FILL_CHANNELS = 384
BASE_CHANNELS = 64


def write_checkpoint(
    folder: Path, *, in_channels: int = FILL_CHANNELS, seed: int = 0, guidance: bool = True, depth: int = 2
) -> Path:
    """Write transformer, VAE, scheduler, text encoders and tokenizers below `folder`, and return it."""
    torch.manual_seed(seed)
    transformer = make_transformer(in_channels=in_channels, guidance=guidance, depth=depth)
    transformer.save_pretrained(folder / "transformer")
    make_vae().save_pretrained(folder / "vae")
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
        shift=3.0,
    )
    scheduler.save_pretrained(folder / "scheduler")
    _write_clip(folder)
    _write_t5(folder)
    pipeline = "FluxFillPipeline" if in_channels == FILL_CHANNELS else "FluxPipeline"
    index = {
        "_class_name": pipeline,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def make_transformer(*, in_channels: int = FILL_CHANNELS, guidance: bool = True, depth: int = 2) -> Any:
    """`depth` double-stream blocks and as many single-stream ones; the real one has 19 and 38."""
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=in_channels,
        out_channels=BASE_CHANNELS,
        num_layers=depth,
        num_single_layers=depth,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=POOLED_WIDTH,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 6, 6),
    )


def make_vae() -> Any:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 16, 16, 16),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def _write_clip(folder: Path) -> None:
    ends = ["<|startoftext|>", "<|endoftext|>"]
    letters = [*_LETTERS, *(f"{letter}</w>" for letter in _LETTERS)]
    vocabulary = {token: number for number, token in enumerate([*letters, *ends])}
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77).save_pretrained(folder / "tokenizer")
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=POOLED_WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=POOLED_WIDTH,
        bos_token_id=vocabulary[ends[0]],
        eos_token_id=vocabulary[ends[1]],
        pad_token_id=vocabulary[ends[1]],
    )
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")


def _write_t5(folder: Path) -> None:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *_LETTERS, *(f"▁{letter}" for letter in _LETTERS), ",", "."]
    vocabulary = [(piece, -float(number)) for number, piece in enumerate(pieces)]
    T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512).save_pretrained(folder / "tokenizer_2")
    config = T5Config(
        vocab_size=len(vocabulary),
        d_model=TEXT_WIDTH,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
    )
    T5EncoderModel(config).save_pretrained(folder / "text_encoder_2")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.tiny_flux", description="Write a tiny random FLUX checkpoint."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", action="store_true", help="the text-to-image model instead of Fill")
    options = parser.parse_args()
    folder = write_checkpoint(options.folder, in_channels=BASE_CHANNELS if options.base else FILL_CHANNELS)
    print(f"a tiny FLUX with random weights lies in {folder}")


if __name__ == "__main__":
    main()
