"""Float8 weights for the transformer's blocks, with optimum-quanto 0.2.7; activations stay as they are, so a product is
computed in the transformer's dtype, with weights put back into it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from optimum import quanto
from optimum.quanto.library.extensions import extension
from optimum.quanto.nn import QLinear
from optimum.quanto.tensor.weights.qbytes import WeightQBytesTensor
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from serve_app.errors import ConfigurationError, WeightsUnavailable

# Every linear layer of the blocks. The embedders, norm_out and proj_out stay: what they lose, every token loses in
# every step, and they are 65 million of 11.9 billion parameters.
LAYERS = ["transformer_blocks.*", "single_transformer_blocks.*"]
WEIGHTS = "diffusion_pytorch_model.safetensors"
READABLE = 0o644
UNQUANTIZED = "proj_out.bias"  # its dtype is the transformer's


class _RowScale(quanto.AbsmaxOptimizer):  # type: ignore[misc]  # quanto has no types
    """The largest weight of a row becomes float8's largest number; quanto's own divides a row of zeros by zero."""

    def optimize(self, base: torch.Tensor, qtype: Any, axis: int | None = None) -> torch.Tensor:
        scale: torch.Tensor = super().optimize(base, qtype, axis)
        return torch.where(scale == 0, torch.ones_like(scale), scale)


def quantize_blocks(transformer: FluxTransformer2DModel) -> None:
    """Replaces the weights in place, one layer after the other; neither they nor the dtype can be changed afterwards.

    Raises ConfigurationError when there were values that are not finite numbers; the transformer is of no use then.
    """
    _quantize(transformer)
    for name, tensor in transformer.state_dict().items():
        # Such a weight makes its row's scale one, too, and the scales are a thousandth of the weights.
        if not name.endswith("._data") and not bool(tensor.isfinite().all()):
            raise ConfigurationError(f"the transformer's {name.removesuffix('._scale')} has values that are not finite")


def _quantize(transformer: FluxTransformer2DModel) -> None:
    _avoid_marlin()
    quanto.quantize(transformer, weights=quanto.qfloat8, include=LAYERS, optimizer=_RowScale())
    quanto.freeze(transformer)
    transformer.requires_grad_(False)


def _avoid_marlin() -> None:
    """On CUDA from capability 8.0 on, quanto turns float8 weights with bfloat16 scales into Marlin weights when they
    arrive there (WeightQBytesTensor.create). Their product leaves the bias out and needs a compiler at run time. The
    choice asks quanto's list of extensions, so the extension is taken off it, in this process and for good.
    """
    extension._extensions.pop("quanto_cuda", None)


def check_kernels(transformer: FluxTransformer2DModel) -> None:
    """Raises ConfigurationError when a weight, on its device, has become one of quanto's kernel-specific kinds."""
    for name, weight in _list_weights(transformer):
        if type(weight) is not WeightQBytesTensor:
            raise ConfigurationError(
                f"quanto made a {type(weight).__name__} of {name}.weight; accepted is the plain WeightQBytesTensor"
            )


def _list_weights(transformer: FluxTransformer2DModel) -> Iterator[tuple[str, Any]]:
    return ((name, layer.weight) for name, layer in transformer.named_modules() if isinstance(layer, QLinear))


def save(transformer: FluxTransformer2DModel, folder: Path) -> None:
    """Write a quantized transformer to a new folder, which appears under its name when it is complete.

    Raises ConfigurationError when the folder exists or the transformer is not quantized, WeightsUnavailable when the
    disk does not take it.
    """
    if not any(_list_weights(transformer)):
        raise ConfigurationError("The transformer is not quantized to float8.")
    if folder.exists():
        raise ConfigurationError(f"{folder} exists already; remove it first.")
    partial = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        transformer.save_config(partial)
        save_file(transformer.state_dict(), partial / WEIGHTS)
        (partial / WEIGHTS).chmod(READABLE)  # it makes files for their owner alone, and the service is another user
        partial.rename(folder)
    except (OSError, SafetensorError) as error:  # the latter is what a full disk is to safetensors
        raise WeightsUnavailable(f"{folder} cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_dtype(folder: Path) -> torch.dtype:
    """What a saved transformer computes in. Raises as `load` does."""
    path = folder / WEIGHTS
    try:
        with safe_open(path, "pt") as file:
            dtype: torch.dtype = file.get_tensor(UNQUANTIZED).dtype
    except SafetensorError as error:
        raise ConfigurationError(f"{path} is damaged: {error}") from error
    return dtype


def load(folder: Path) -> FluxTransformer2DModel:
    """What `save` wrote, bit for bit, on the CPU.

    Raises ConfigurationError when the folder holds anything else, OSError when it cannot be read.
    """
    dtype = read_dtype(folder)
    with torch.device("meta"):
        transformer = FluxTransformer2DModel.from_config(FluxTransformer2DModel.load_config(folder))
    torch.nn.Module.to(transformer, dtype)  # diffusers' own `to` warns of casts, of which this is none
    _quantize(transformer)
    state = load_file(folder / WEIGHTS)
    # quanto itself takes whatever shape comes, and leaves uninitialised what does not come.
    wanted, found = (
        {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
        for tensors in (transformer.state_dict(), state)
    )
    if wrong := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
        raise ConfigurationError(
            f"{folder} is no float8 snapshot of the transformer in its config.json: {len(wrong)} tensors are missing, "
            f"too many, or of another shape or dtype, {wrong[0]} first; make it again"
        )
    transformer.load_state_dict(state, assign=True)
    return transformer.requires_grad_(False).eval()
