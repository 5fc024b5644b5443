"""What of a model lies in a mirror, and how it gets there: from the hub to a local disk, and whole from there."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from serve_app.errors import ConfigurationError
from serve_app.flux import hub, mirror
from serve_app.flux.assembly import SHIPPED
from serve_app.flux.checkpoint import Part, list_missing, mirror_folder
from serve_app.flux.hub import HubFile
from serve_app.flux.loading import DTYPES
from serve_app.flux.prompt_files import Encoding
from serve_app.flux.quantization import QUANTIZATIONS, get_quantization, snapshot_folder
from serve_app.flux.snapshot import keep_prompts, keep_quantized
from serve_app.flux.spec import ModelSpec
from serve_app.weights import EMBEDDED, MANIFEST, fetch

log = logging.getLogger(__name__)

ALL = Part.IMAGE | Part.TEXT
SPARE_BYTES = 2**30
"""Left free on the scratch disk, for embeddings, embedded models and what libraries put aside."""
GIGABYTE = 10**9


@dataclass(frozen=True, slots=True)
class Wish:
    """What beside the published files is to lie in a model's folder. `dtype` is what the quantized transformer computes
    in, `encoder_dtype` what prompts are encoded in: those of the service."""

    quantization: str | None
    dtype: str
    prompts: tuple[str, ...]
    encoder_dtype: torch.dtype

    def name_prompts(self, spec: ModelSpec) -> list[str]:
        encoding = Encoding(spec.revision, self.encoder_dtype, spec.text_lengths)
        return [f"{SHIPPED}/{encoding.name_file(prompt)}" for prompt in self.prompts]


def list_gaps(root: Path, spec: ModelSpec, wish: Wish, *, deep: bool = False) -> list[str]:
    """What a mirror lacks of a model, as paths below its folder; `deep` compares every byte with the record. Raises
    WeightsUnavailable when the mirror cannot be read."""
    folder = mirror_folder(root, spec)
    try:
        missing = list_missing(folder, ALL)
        stale = wish.quantization is not None and not _has_snapshot(folder, wish.quantization, wish.dtype)
    except OSError as error:
        raise mirror.translate(error, folder) from error
    if stale:
        missing.append(snapshot_folder(folder, str(wish.quantization)).name)
    record = mirror.read_record(folder)
    missing += [name for name in wish.name_prompts(spec) if name not in record]
    return sorted({*missing, *mirror.list_damaged(folder, deep=deep)})


def _has_snapshot(folder: Path, quantization: str, dtype: str) -> bool:
    snapshots = get_quantization(quantization).snapshots
    try:
        return snapshots is not None and snapshots.read_dtype(snapshot_folder(folder, quantization)) is DTYPES[dtype]
    except (FileNotFoundError, ConfigurationError):  # none, or a damaged one
        return False


def fill(root: Path, scratch: Path, spec: ModelSpec, wish: Wish, token: str | None) -> list[str]:
    """Bring a model into a mirror; returns the paths that were copied. A second call goes on where one was cut off.

    Raises ConfigurationError for what no retry mends, WeightsUnavailable for the rest.
    """
    folder = mirror_folder(scratch, spec)
    files = hub.list_files(spec, ALL, token)
    _check_space(folder, files, wish)
    gigabytes = sum(file.bytes for file in files.values()) / GIGABYTE
    log.info("%s: %d files of %.1f GB, to %s", spec.name, len(files), gigabytes, folder)
    hub.download(spec, files, folder, token)
    names = [*files, *_make_extras(folder, spec, wish)]
    log.info("%s: to %s", spec.name, mirror_folder(root, spec))
    return mirror.put(folder, mirror_folder(root, spec), names)


def _make_extras(folder: Path, spec: ModelSpec, wish: Wish) -> list[str]:
    made = []
    if wish.quantization is not None:
        kept = snapshot_folder(folder, wish.quantization)
        if not _has_snapshot(folder, wish.quantization, wish.dtype):
            shutil.rmtree(kept, ignore_errors=True)
            log.info("%s: quantizing to %s", spec.name, wish.quantization)
            keep_quantized(folder, spec, wish.quantization, wish.dtype)
        made += sorted(path.relative_to(folder).as_posix() for path in kept.iterdir())
    names = wish.name_prompts(spec)
    new = [prompt for prompt, name in zip(wish.prompts, names, strict=True) if not (folder / name).is_file()]
    if new:
        log.info("%s: encoding %d prompts", spec.name, len(new))
        keep_prompts(folder, spec, new, wish.encoder_dtype)
    return [*made, *names]


def _check_space(folder: Path, files: Mapping[str, HubFile], wish: Wish) -> None:
    mirror.check_writable(folder)
    needed = SPARE_BYTES
    for name, file in files.items():
        path = folder / name
        needed += 0 if path.is_file() and path.stat().st_size == file.bytes else file.bytes
    if wish.quantization is not None and not snapshot_folder(folder, wish.quantization).is_dir():
        share = get_quantization(wish.quantization).gigabytes / QUANTIZATIONS["none"].gigabytes
        needed += round(share * sum(file.bytes for name, file in files.items() if name.startswith("transformer/")))
    if (free := shutil.disk_usage(folder).free) < needed:
        raise ConfigurationError(
            f"{folder} is on too small a disk: {free / GIGABYTE:.1f} GB are free, {needed / GIGABYTE:.1f} GB needed."
        )


def fill_embedded(target: Path, scratch: Path, token: str | None) -> list[str]:
    """Bring the models of the embedded engines; returns those that were copied. Raises as `fill` does."""
    copied = []
    for name in EMBEDDED:
        path = fetch(name, scratch, token=token)
        if mirror.put_file(path, target / MANIFEST[name].file):
            copied.append(MANIFEST[name].file)
    return copied


def list_embedded_gaps(target: Path, *, deep: bool = False) -> list[str]:
    """Raises WeightsUnavailable when the folder cannot be read."""
    rows = {MANIFEST[name].file: mirror.Content(MANIFEST[name].bytes, MANIFEST[name].sha256) for name in EMBEDDED}
    return mirror.compare(target, rows, deep=deep)
