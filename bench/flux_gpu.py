"""FLUX.1-Fill at its true size with random weights on a GPU: seconds per step, peak memory, and what float8 changes.

Random weights cost what real ones do, and need no licence. Per size: seconds of one step, of encoding and of decoding,
and the peak memory of all. `float8_error` is the relative difference of the first step's velocity when the same
transformer has its blocks in float8, and `float8_step_ratio` its time over bfloat16's. `--tiny` runs the same on the
tiny model and a CPU, to show that the benchmark works; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from bench import flops, tiny_flux
from bench.dispatch import make_crop, make_request
from bench.report import print_figures
from serve_app.flux.admission import make_samples
from serve_app.flux.loading import Parts
from serve_app.flux.model import FluxModel, Latents
from serve_app.flux.quantization import get_quantization, quantize
from serve_app.flux.spec import get_spec
from serve_app.flux.text import TextEmbedding

SIDES = (512, 768, 1024)  # pixels
TEXT_TOKENS = 128
REPEATS = 5
GIB = 2**30


def measure(*, tiny: bool) -> dict[str, float]:
    """Seconds, GiB and ratios. Raises RuntimeError without a GPU, unless `tiny`."""
    if not tiny and not torch.cuda.is_available():
        raise RuntimeError("no GPU is visible; --tiny runs the tiny model on a CPU instead")
    device = torch.device("cpu" if tiny else "cuda")
    parts = _make_parts(device, tiny)
    text = _make_text(parts)
    result: dict[str, float] = {}
    velocities = {}
    for side in (64, 128) if tiny else SIDES:
        result |= {f"{name}_{side}": value for name, value in _measure_size(FluxModel(parts), text, side).items()}
    side = 64 if tiny else SIDES[0]
    velocities["bfloat16"], plain_s = _predict(FluxModel(parts), text, side)
    # In place and on the CPU, as a replica does it: a GPU that needs float8 has no room for both.
    parts.transformer.to("cpu")
    quantize(parts.transformer, "float8")
    parts.transformer.to(device)
    get_quantization("float8").check(parts.transformer)
    velocities["float8"], float8_s = _predict(FluxModel(parts), text, side)
    change = velocities["float8"] - velocities["bfloat16"]
    result["float8_error"] = float(change.norm() / velocities["bfloat16"].norm())
    result["float8_step_ratio"] = float8_s / plain_s
    return result


def _make_parts(device: torch.device, tiny: bool) -> Parts:
    transformer, vae = (
        (tiny_flux.make_transformer(), tiny_flux.make_vae()) if tiny else (flops.make_transformer(), flops.make_vae())
    )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    models = [_fill(model, device) for model in (transformer, vae)]
    return Parts(get_spec("flux-fill-dev"), models[0], models[1], scheduler, device, torch.bfloat16)


def _fill(model: Any, device: torch.device) -> Any:
    """Random weights in bfloat16, small enough that nothing overflows on its way through 57 blocks."""
    model = model.to(torch.bfloat16).to_empty(device=device).requires_grad_(False).eval()
    generator = torch.Generator(device).manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, 0.02, generator=generator)
        else:
            parameter.fill_(1.0)
    return model


def _make_text(parts: Parts) -> TextEmbedding:
    config = parts.transformer.config
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(TEXT_TOKENS, config.joint_attention_dim, generator=generator)
    return TextEmbedding(tokens, torch.randn(config.pooled_projection_dim, generator=generator))


def _start(model: FluxModel, text: TextEmbedding, side: int) -> Latents:
    sample = make_samples(make_request("gpu", (make_crop(side),), 28), model.spec)[0]
    return model.encode(sample, text, None)


def _measure_size(model: FluxModel, text: TextEmbedding, side: int) -> dict[str, float]:
    if model.uses_accelerator:
        torch.cuda.reset_peak_memory_stats()
    state = _start(model, text, side)
    seconds = {
        "encode_s": _time(lambda: _start(model, text, side)),
        "step_s": _time(lambda: model.step([state])),
        "decode_s": _time(lambda: model.decode(state)),
    }
    peak = torch.cuda.max_memory_allocated() / GIB if model.uses_accelerator else 0.0
    return {**seconds, "peak_gib": peak}


def _predict(model: FluxModel, text: TextEmbedding, side: int) -> tuple[torch.Tensor, float]:
    """The first step's velocity, float32 on the CPU, and the seconds of a step."""
    state = _start(model, text, side)
    (after,) = model.step([state])
    assert isinstance(after, Latents), after
    moved = (after.tokens.float() - state.tokens.float()).cpu()
    return moved / float(state.sigmas[1] - state.sigmas[0]), _time(lambda: model.step([state]))


def _time(work: Callable[[], object]) -> float:
    """Median seconds; the model waits for its device, so the clock is true."""
    work()
    seconds = []
    for _ in range(REPEATS):
        start = time.monotonic()
        work()
        seconds.append(time.monotonic() - start)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.flux_gpu")
    parser.add_argument("--tiny", action="store_true", help="the tiny model on a CPU: shows that the benchmark works")
    result = measure(tiny=parser.parse_args().tiny)
    print_figures(result)


if __name__ == "__main__":
    main()
