"""A bucket of weights as the Job leaves it (`serve_app.flux.mirroring`), with a tiny FLUX."""

from __future__ import annotations

from pathlib import Path

import torch

from bench.tiny_flux import write_checkpoint
from serve_app.flux import mirror
from serve_app.flux.checkpoint import mirror_folder
from serve_app.flux.snapshot import keep_prompts, keep_quantized
from serve_app.flux.spec import get_spec
from serve_app.settings import DEFAULT_PROMPT, Settings
from serve_app.weights import EMBEDDED, locate


def make_weights(folder: Path) -> Path:
    """Readable for everybody; the transformer computes in float32, as on a CPU."""
    spec = get_spec("flux-fill-dev")
    made = write_checkpoint(mirror_folder(folder / "scratch", spec))
    keep_quantized(made, spec, "float8", "float32")
    keep_prompts(made, spec, [DEFAULT_PROMPT], torch.bfloat16)
    names = [path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()]
    mirror.put(made, mirror_folder(folder / "hub", spec), names)
    for name in EMBEDDED:
        path = locate(name, Settings().engines.weights_dir.expanduser())
        mirror.put_file(path, folder / "embedded" / path.name)
    return folder
