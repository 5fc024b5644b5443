"""Transformers in fewer bytes: one row per way, applied to a loaded transformer on its way to the device."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel

from serve_app.errors import ConfigurationError
from serve_app.flux import float8

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshots:
    """How quantized transformers are kept on disk. `save` writes a new folder; `load` gives exactly what was saved, on
    the CPU; `read_dtype` is the dtype it computes in. They raise as the functions of `float8` do."""

    save: Callable[[FluxTransformer2DModel, Path], None]
    load: Callable[[Path], FluxTransformer2DModel]
    read_dtype: Callable[[Path], torch.dtype]


@dataclass(frozen=True, slots=True)
class Quantization:
    """`apply` changes a transformer in place, on the CPU; its dtype is fixed from then on. `check` raises
    ConfigurationError when, on its device, the transformer would not compute what it should. `gigabytes` is what the
    11.9 billion parameters of FLUX.1 take. `snapshots` is None where a snapshot would save no time."""

    name: str
    description: str
    notes: str
    gigabytes: float
    apply: Callable[[FluxTransformer2DModel], None]
    check: Callable[[FluxTransformer2DModel], None]
    snapshots: Snapshots | None


def _leave(_: FluxTransformer2DModel) -> None:
    pass


QUANTIZATIONS: dict[str, Quantization] = {
    row.name: row
    for row in (
        Quantization(
            name="none",
            description="weights in the dtype that is computed in",
            notes="as the model was published",
            gigabytes=23.8,
            apply=_leave,
            check=_leave,
            snapshots=None,
        ),
        Quantization(
            name="float8",
            description="weights of the blocks in float8 (e4m3), one scale per output feature; optimum-quanto",
            notes="saves memory, not time: each call puts the weights back into the dtype that is computed in. Not yet "
            "compared with bfloat16 on a GPU",
            gigabytes=12.0,
            apply=float8.quantize_blocks,
            check=float8.check_kernels,
            snapshots=Snapshots(float8.save, float8.load, float8.read_dtype),
        ),
    )
}


def get_quantization(name: str) -> Quantization:
    """Raises ConfigurationError for a name that is no row."""
    if name not in QUANTIZATIONS:
        raise ConfigurationError(f"There is no quantization '{name}'; known are {', '.join(QUANTIZATIONS)}.")
    return QUANTIZATIONS[name]


def quantize(transformer: FluxTransformer2DModel, name: str) -> None:
    """Raises ConfigurationError for a name that is no row, or for weights that are no finite numbers."""
    get_quantization(name).apply(transformer)


def save_quantized(transformer: FluxTransformer2DModel, name: str, checkpoint: Path) -> Path:
    """Keep a quantized transformer, still on the CPU, in its checkpoint's folder `transformer-<name>`, so that the
    next start need not read and quantize the whole one. Whoever replaces `transformer` removes it.

    Raises ConfigurationError when the row has no snapshots, when there is one already or the transformer is not
    quantized so; WeightsUnavailable when the disk does not take it.
    """
    row = get_quantization(name)
    if row.snapshots is None:
        able = ", ".join(other.name for other in QUANTIZATIONS.values() if other.snapshots)
        raise ConfigurationError(f"The quantization '{name}' has no snapshots; {able} has.")
    folder = snapshot_folder(checkpoint, name)
    row.snapshots.save(transformer, folder)
    return folder


def load_quantized(name: str, checkpoint: Path, dtype: torch.dtype) -> FluxTransformer2DModel | None:
    """What `save_quantized` kept, on the CPU, or None when it kept nothing of this row that computes in `dtype`.

    Raises ConfigurationError when the snapshot is damaged or another model's, OSError when it cannot be read.
    """
    row, folder = get_quantization(name), snapshot_folder(checkpoint, name)
    if row.snapshots is None or not folder.is_dir():
        return None
    if (kept := row.snapshots.read_dtype(folder)) is not dtype:
        log.warning("%s computes in %s, not in %s: quantizing anew", folder, kept, dtype)
        return None
    return row.snapshots.load(folder)


def snapshot_folder(checkpoint: Path, name: str) -> Path:
    """Where a quantized transformer is kept, if it is."""
    return checkpoint / f"transformer-{name}"
