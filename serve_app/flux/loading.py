"""Models from the files of a checkpoint onto the device they run on, whole and resident: nothing is offloaded."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer
from transformers.utils import logging as transformers_logging

from serve_app.errors import ConfigurationError, PawfectError, WeightsUnavailable
from serve_app.flux.checkpoint import Checkpoint
from serve_app.flux.quantization import get_quantization, load_quantized, quantize, snapshot_folder
from serve_app.flux.spec import SPECS, Family, ModelSpec
from serve_app.flux.text import TextEncoder

log = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "cuda")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_CLASSES = {Family.FLUX1: "FluxTransformer2DModel"}
# What tells the rows apart, with what diffusers assumes where a configuration is silent.
_ARCHITECTURE = {"_class_name": None, "in_channels": 64, "guidance_embeds": False}


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What a model is run with, on `device` and computing in `dtype`."""

    spec: ModelSpec
    transformer: FluxTransformer2DModel
    vae: AutoencoderKL
    scheduler: FlowMatchEulerDiscreteScheduler
    device: torch.device
    dtype: torch.dtype


def load_parts(
    checkpoint: Checkpoint, spec: ModelSpec, *, device: str, dtype: str, quantization: str, memory_share: float | None
) -> Parts:
    """`device` is auto (cuda where there is one), cpu or cuda; `dtype` is auto (bfloat16 on cuda, else float32),
    float32 or bfloat16; `quantization` is a row of QUANTIZATIONS. `memory_share`, in (0, 1], is the share of a GPU's
    memory that this process takes at most; it has no effect on a CPU.

    Raises ConfigurationError for what no retry mends: an unknown choice, another model's checkpoint, damaged files, too
    little memory; WeightsUnavailable when the files cannot be read.
    """
    place = choose_device(device)
    precision = choose_dtype(dtype, place)
    get_quantization(quantization)
    if memory_share is not None and not 0 < memory_share <= 1:
        raise ConfigurationError(f"The share of a GPU's memory is {memory_share}; accepted are numbers in (0, 1].")
    check_architecture(checkpoint.folder / "transformer", spec)
    if place.type == "cuda" and memory_share is not None:  # this and the other moves to cuda were written without one
        torch.cuda.set_per_process_memory_fraction(memory_share, place)
    started = time.monotonic()
    transformer = _load_transformer(checkpoint.folder, spec, precision, quantization, place)
    vae = _load_model(AutoencoderKL, checkpoint.folder / "vae", precision, place)
    with _reading(checkpoint.folder / "scheduler") as folder:
        scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder, local_files_only=True)
    seconds = time.monotonic() - started
    log.info("%s is on %s: %s, quantization %s, %.0f s", spec.name, place, precision, quantization, seconds)
    return Parts(spec, transformer, vae, scheduler, place, precision)


def load_text_encoder(
    checkpoint: Checkpoint, spec: ModelSpec, *, device: str = "cpu", dtype: str = "auto"
) -> TextEncoder:
    """`device` and `dtype` as for `load_parts`, but auto is here the dtype in which each encoder is stored: bfloat16 in
    the published ones. Embeddings so made are those the transformer was trained with; float32 would double 10 GB of
    memory, and speed matters little, as an encoder is asked once per new prompt.

    Raises as `load_parts` does.
    """
    place = choose_device(device)
    precision = "auto" if dtype == "auto" else choose_dtype(dtype, place)
    root = checkpoint.folder
    with _reading(root / "tokenizer") as folder:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    with _reading(root / "tokenizer_2") as folder:
        tokenizer_2 = T5Tokenizer.from_pretrained(folder, local_files_only=True)
    text_encoder = _load_model(CLIPTextModel, root / "text_encoder", precision, place)
    text_encoder_2 = _load_model(T5EncoderModel, root / "text_encoder_2", precision, place)
    return TextEncoder(tokenizer, text_encoder, tokenizer_2, text_encoder_2, spec.text_lengths)


def choose_device(name: str) -> torch.device:
    """Raises ConfigurationError for a name that is none of DEVICES, and for cuda where there is none."""
    if name not in DEVICES:
        raise ConfigurationError(f"There is no device '{name}'; accepted are {', '.join(DEVICES)}.")
    if torch.cuda.is_available() and name != "cpu":
        return torch.device("cuda", torch.cuda.current_device())
    if name == "cuda":
        raise ConfigurationError("The device is cuda, but this process sees no GPU; accepted here are auto and cpu.")
    return torch.device("cpu")


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Raises ConfigurationError for a name that is neither auto nor one of DTYPES."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise ConfigurationError(f"There is no dtype '{name}'; accepted are auto, {', '.join(DTYPES)}.")
    return DTYPES[name]


def check_architecture(folder: Path, spec: ModelSpec) -> None:
    """Raises ConfigurationError when the transformer in a folder is not built as a row says."""
    path = folder / "config.json"
    with _reading(path):
        config = json.loads(path.read_text())
        found = {key: config.get(key, default) for key, default in _ARCHITECTURE.items()}
    wanted = _describe_architecture(spec)
    if found == wanted:
        return
    fitting = [row.name for row in SPECS.values() if _describe_architecture(row) == found]
    differences = [
        f"{key} {found[key]} where {spec.name} wants {wanted[key]}" for key in wanted if found[key] != wanted[key]
    ]
    raise ConfigurationError(f"{path} has {', '.join(differences)}; it fits {', '.join(fitting) or 'no known model'}.")


def _describe_architecture(spec: ModelSpec) -> dict[str, Any]:
    return {
        "_class_name": _CLASSES[spec.family],
        "in_channels": spec.in_channels,
        "guidance_embeds": spec.has_guidance,
    }


def _load_transformer(root: Path, spec: ModelSpec, dtype: torch.dtype, quantization: str, device: torch.device) -> Any:
    """Quantized before it moves, because a GPU that needs it quantized has no room for the whole one."""
    with _reading(snapshot_folder(root, quantization)) as folder:
        transformer = load_quantized(quantization, root, dtype)
        if transformer is not None:
            check_architecture(folder, spec)
    with _reading(root / "transformer") as folder:
        if transformer is None:
            transformer = _load_model(FluxTransformer2DModel, folder, dtype, torch.device("cpu"))
            quantize(transformer, quantization)
        transformer.to(device)
    get_quantization(quantization).check(transformer)
    return transformer


def _load_model(kind: Any, folder: Path, dtype: torch.dtype | str, device: torch.device) -> Any:
    with _reading(folder), _without_progress_bars():
        model, report = kind.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        # transformers fills what is missing with random numbers, diffusers leaves it on "meta"; of an index that names
        # more than its files hold, diffusers does not even report it.
        empty = [name for name, parameter in model.named_parameters() if parameter.is_meta]
        if missing := sorted({*report["missing_keys"], *empty}):
            raise ConfigurationError(f"{folder} lacks {len(missing)} weights: {', '.join(missing[:5])}")
        return model.requires_grad_(False).eval().to(device)


@contextmanager
def _reading(path: Path) -> Iterator[Path]:
    """Translates whatever is met while `path` is read and put onto its device."""
    try:
        yield path
    except PawfectError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ConfigurationError(f"{path} does not fit into the memory it may take: {error}") from error
    except Exception as error:  # safetensors, diffusers and transformers have no common ancestor but this
        # The libraries raise OSErrors of their own, for damaged files; one of the system has a number, and may pass.
        if isinstance(error, OSError) and error.errno is not None:
            raise WeightsUnavailable(f"{path} cannot be read: {error}") from error
        raise ConfigurationError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Both libraries draw bars into the log, and have no other switch than one for the process; it is put back."""
    switches = [module for module in (diffusers_logging, transformers_logging) if module.is_progress_bar_enabled()]
    for module in switches:
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module in switches:
            module.enable_progress_bar()
