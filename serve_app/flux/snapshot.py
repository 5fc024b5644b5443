"""`python -m serve_app.flux.snapshot FOLDER`: puts into a checkpoint's folder what a replica would else make at each
start: the quantized transformer, and the embeddings of prompts that every job has."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from serve_app.errors import PawfectError
from serve_app.flux.assembly import SHIPPED
from serve_app.flux.checkpoint import Part, find_checkpoint, mirror_folder
from serve_app.flux.loading import DTYPES, load_parts, load_text_encoder
from serve_app.flux.prompt_files import Encoding, PromptFolder
from serve_app.flux.quantization import QUANTIZATIONS, save_quantized
from serve_app.flux.spec import SPECS, ModelSpec, get_spec
from serve_app.settings import load_settings

MAX_BYTES = 2**30
"""Of the embeddings beside a checkpoint; one takes 1 to 4 MB."""


def keep_quantized(folder: Path, spec: ModelSpec, quantization: str, dtype: str) -> Path:
    """Quantize the transformer and keep it, computing in `dtype`. Raises as `load_parts` and `save_quantized` do."""
    found = find_checkpoint(spec, str(folder), needs=Part.IMAGE, mirror=None, cache=None, token=None)
    parts = load_parts(found, spec, device="cpu", dtype=dtype, quantization=quantization, memory_share=None)
    return save_quantized(parts.transformer, quantization, folder)


def keep_prompts(folder: Path, spec: ModelSpec, prompts: Sequence[str], dtype: torch.dtype) -> list[Path]:
    """Encode prompts and keep them. Raises as `load_text_encoder` and `TextEncoder.encode` do.

    In a mirror's folder, `<repo>/<revision>`, they are kept under the commit, as which replicas know it from there.
    """
    found = find_checkpoint(spec, str(folder), needs=Part.TEXT, mirror=None, cache=None, token=None)
    if folder.absolute() == mirror_folder(folder.absolute().parents[2], spec):
        found = replace(found, revision=spec.revision)
    name = next(name for name, value in DTYPES.items() if value is dtype)
    encoder = load_text_encoder(found, spec, device="cpu", dtype=name)
    encoding = Encoding(found.revision, dtype, spec.text_lengths)
    shipped = PromptFolder(folder / SHIPPED, encoding, max_bytes=MAX_BYTES)
    for prompt in prompts:
        shipped.write(prompt, encoder.encode(prompt))
    return [folder / SHIPPED / encoding.name_file(prompt) for prompt in prompts]


def main(arguments: Sequence[str] | None = None) -> int:
    able = [name for name, row in QUANTIZATIONS.items() if row.snapshots]
    parser = argparse.ArgumentParser(prog="python -m serve_app.flux.snapshot", description=__doc__)
    parser.add_argument("folder", type=Path, help="of the checkpoint, in diffusers' layout")
    parser.add_argument("--model", choices=SPECS, default=next(iter(SPECS)))
    parser.add_argument("--quantization", choices=able, help="keep the transformer so")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="numbers it then computes in")
    parser.add_argument("--prompt", action="append", help="instead of the configured one; may be given again")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    spec = get_spec(options.model)
    try:
        settings = load_settings()
        if options.quantization:
            print(keep_quantized(options.folder, spec, options.quantization, options.dtype))
        prompts = options.prompt or [settings.prompt]
        for path in keep_prompts(options.folder, spec, prompts, DTYPES[settings.flux.encoder_dtype]):
            print(path)
    except PawfectError as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
