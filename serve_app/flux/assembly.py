"""From settings to an engine that runs, and to the encoders it asks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from serve_app.engines.trace import Trace
from serve_app.errors import ConfigurationError
from serve_app.flux.checkpoint import Checkpoint, Part, find_checkpoint
from serve_app.flux.engine import FluxEngine
from serve_app.flux.loading import DTYPES, load_parts, load_text_encoder
from serve_app.flux.model import FluxModel
from serve_app.flux.prompts import Prompts
from serve_app.flux.spec import get_spec
from serve_app.flux.stepping import Limits
from serve_app.flux.text import TextEmbedding, TextEncoder
from serve_app.metrics import Sink
from serve_app.settings_sections import FluxSettings

MEGAPIXEL_TOKENS = 2**20 // 16**2
MEBIBYTE = 2**20
SHIPPED = "prompts"
"""Folder of a checkpoint with embeddings that came with it; it saves the first jobs the encoders."""


def load_engine(
    settings: FluxSettings,
    name: str,
    encode: Callable[[str], Future[TextEmbedding]],
    *,
    sink: Sink,
    token: str | None,
    trace: Trace | None = None,
) -> FluxEngine:
    """The engine of a configured model, running. `encode` is asked for prompts that are in no cache.

    Raises ConfigurationError for what no retry mends, WeightsUnavailable for the rest.
    """
    spec = get_spec(name)
    checkpoint = _find(settings, name, Part.IMAGE, token)
    parts = load_parts(
        checkpoint,
        spec,
        device=settings.device,
        dtype=settings.dtype,
        quantization=settings.quantization,
        memory_share=settings.memory_share,
    )
    prompts = Prompts(
        checkpoint.revision,
        encode,
        dtype=DTYPES[settings.encoder_dtype],
        lengths=spec.text_lengths,
        memory_bytes=settings.prompt_memory_mb * MEBIBYTE,
        folder=settings.prompt_dir.expanduser(),
        folder_bytes=settings.prompt_disk_mb * MEBIBYTE,
        shipped=(checkpoint.folder / SHIPPED,),
        sink=sink,
    )
    return FluxEngine(FluxModel(parts), prompts, make_limits(settings), sink=sink, name=spec.engine, trace=trace)


def load_encoder(settings: FluxSettings, name: str, *, token: str | None) -> TextEncoder:
    """The text encoders of a configured model, on the CPU. Raises as `load_engine` does."""
    checkpoint = _find(settings, name, Part.TEXT, token)
    return load_text_encoder(checkpoint, get_spec(name), device="cpu", dtype=settings.encoder_dtype)


def make_limits(settings: FluxSettings) -> Limits:
    return Limits(
        places=settings.places,
        urgent_places=settings.urgent_places,
        rows=settings.batch_rows,
        tokens=round(settings.batch_megapixels * MEGAPIXEL_TOKENS),
        aging_s=settings.aging_s,
    )


def _find(settings: FluxSettings, name: str, needs: Part, token: str | None) -> Checkpoint:
    source = settings.checkpoints.get(name)
    if source is None:
        raise ConfigurationError(f"The model {name} has no checkpoint; PAWFECT_FLUX__CHECKPOINTS is to name one.")
    return find_checkpoint(
        get_spec(name), source, needs=needs, mirror=settings.mirror, cache=settings.hub_dir, token=token
    )
