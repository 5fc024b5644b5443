"""Where a model's files come from: a folder, a mirror of our own, or the model hub."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Flag, auto
from pathlib import Path

from serve_app.errors import ConfigurationError, PawfectError, WeightsUnavailable
from serve_app.flux.spec import ModelSpec

log = logging.getLogger(__name__)

HUB = "hub"
WHOLE_BYTES = 1 << 20  # configurations and vocabularies are smaller, weights are larger
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Part(Flag):
    """What a process loads of a checkpoint; no replica needs both."""

    IMAGE = auto()
    TEXT = auto()


FOLDERS = {
    Part.IMAGE: ("transformer", "vae", "scheduler"),
    Part.TEXT: ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"),
}
_CONFIGURATION = dict.fromkeys(("transformer", "vae", "text_encoder", "text_encoder_2"), "config.json") | {
    "scheduler": "scheduler_config.json",
    "tokenizer": "tokenizer_config.json",
    "tokenizer_2": "tokenizer_config.json",
}
_WEIGHTS = {
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
}
# Without any of them transformers makes an empty tokenizer and says nothing.
_VOCABULARIES = {"tokenizer": ("tokenizer.json", "vocab.json"), "tokenizer_2": ("tokenizer.json", "spiece.model")}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder in diffusers' layout that has the parts asked for.

    `revision` says which text encoders these are, for the prompt cache, whose embeddings are useless to a model that
    was trained with others. Of the hub and of its mirror it is the commit. A local folder has none, so it is the first
    16 hex digits of a sha256 over the names, sizes and contents of the files (of those above 1 MiB the first and the
    last MiB) in the text encoders' and tokenizers' folders, whoever asks: a FLUX replica and an encoder replica with
    the same folder agree, and a changed transformer leaves the cache valid. A folder that has no text encoder at all is
    known by its transformer, VAE and scheduler instead: such a folder shares no cache with a folder of encoders.
    """

    folder: Path
    revision: str


def find_checkpoint(
    spec: ModelSpec, source: str, *, needs: Part, mirror: Path | None, cache: Path | None, token: str | None
) -> Checkpoint:
    """`source` is a local folder or the word "hub": then `<mirror>/<repo>/<revision>` if it is whole, else the hub.

    From the hub comes only what `needs` names, of the pinned commit, into `cache` (None: the hub client's own folder);
    `token` None leaves the choice of a token to the hub client (HF_TOKEN, or a stored login).

    Raises ConfigurationError for what no retry mends: files that a local folder lacks, a repository that does not give
    us the files, an unpinned revision. Raises WeightsUnavailable for the rest: network, disk, an unfinished download.
    """
    try:
        if source != HUB:
            return _find_folder(Path(source).expanduser(), needs)
        return Checkpoint(_find_commit(spec, needs, mirror, cache, token), spec.revision)
    except OSError as error:  # a mounted bucket may be out of reach for a while
        raise WeightsUnavailable(f"the files of {spec.name} cannot be read: {error}") from error


def list_missing(folder: Path, needs: Part) -> list[str]:
    """What a folder in diffusers' layout lacks, as paths below it; only names are looked at. Raises OSError."""
    missing = [] if (folder / "model_index.json").is_file() else ["model_index.json"]
    for part in needs:
        for name in FOLDERS[part]:
            missing += [f"{name}/{file}" for file in _list_missing_files(folder / name, name)]
    return missing


def _list_missing_files(folder: Path, name: str) -> Iterator[str]:
    if not (folder / _CONFIGURATION[name]).is_file():
        yield _CONFIGURATION[name]
    if name in _VOCABULARIES and not any((folder / file).is_file() for file in _VOCABULARIES[name]):
        yield " or ".join(_VOCABULARIES[name])
    if name in _WEIGHTS and not (folder / _WEIGHTS[name]).is_file():
        index = folder / f"{_WEIGHTS[name]}.index.json"
        shards = _read_shards(index) if index.is_file() else [_WEIGHTS[name]]
        yield from (shard for shard in shards if not (folder / shard).is_file())


def _read_shards(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{index} is not an index of weights: {type(error).__name__}: {error}") from error


def check_source(source: str, needs: Part) -> None:
    """Raises ConfigurationError for a folder that is no whole checkpoint, WeightsUnavailable for one that cannot be
    read. Only names are looked at, and the hub is not asked."""
    if source == HUB:
        return
    try:
        _check_folder(Path(source).expanduser(), needs)
    except OSError as error:
        raise WeightsUnavailable(f"{source} cannot be read: {error}") from error


def _find_folder(folder: Path, needs: Part) -> Checkpoint:
    _check_folder(folder, needs)
    return Checkpoint(folder, _fingerprint(folder))


def _check_folder(folder: Path, needs: Part) -> None:
    if not folder.is_dir():
        raise ConfigurationError(f"There is no folder {folder}; give one in diffusers' layout, or the word '{HUB}'.")
    if missing := list_missing(folder, needs):
        raise ConfigurationError(
            f"{folder} is no whole checkpoint in diffusers' layout: it lacks {', '.join(missing)}."
        )


def _find_commit(spec: ModelSpec, needs: Part, mirror: Path | None, cache: Path | None, token: str | None) -> Path:
    if not _COMMIT.fullmatch(spec.revision):
        raise ConfigurationError(f"The revision of {spec.name} is '{spec.revision}'; give a commit of 40 hex digits.")
    if mirror is not None:
        folder = mirror_folder(mirror, spec)
        if not (missing := list_missing(folder, needs)):
            return folder
        log.warning("the mirror's %s lacks %s: asking the hub", folder, ", ".join(missing))
    folder = _download(spec, needs, cache, token)
    if missing := list_missing(folder, needs):
        raise WeightsUnavailable(f"{spec.repo} did not come whole from the hub: {folder} lacks {', '.join(missing)}")
    return folder


def _fingerprint(folder: Path) -> str:
    names = [name for name in FOLDERS[Part.TEXT] if (folder / name).is_dir()] or FOLDERS[Part.IMAGE]
    digest = hashlib.sha256()
    for path in sorted(path for name in names for path in (folder / name).rglob("*") if path.is_file()):
        relative, size = path.relative_to(folder), path.stat().st_size
        if any(part.startswith(".") for part in relative.parts):  # what file managers and download tools leave behind
            continue
        digest.update(f"{relative.as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(WHOLE_BYTES))
            if size > WHOLE_BYTES:
                file.seek(-WHOLE_BYTES, 2)
                digest.update(file.read(WHOLE_BYTES))
    return digest.hexdigest()[:16]


def list_patterns(needs: Part) -> list[str]:
    """Of the hub's files. Beside these the repositories have everything once more as a single file of 24 GB."""
    return ["model_index.json", *(f"{name}/*" for part in needs for name in FOLDERS[part])]


def mirror_folder(mirror: Path, spec: ModelSpec) -> Path:
    """Where a mirror has the pinned commit of a model."""
    return mirror.expanduser() / spec.repo / spec.revision


def _download(spec: ModelSpec, needs: Part, cache: Path | None, token: str | None) -> Path:
    import huggingface_hub  # reads its environment when it is imported, so not before it is needed

    try:
        folder = huggingface_hub.snapshot_download(
            spec.repo, revision=spec.revision, cache_dir=cache, token=token, allow_patterns=list_patterns(needs)
        )
    except Exception as error:  # errors of the hub, of its transports and of the disk, with no common ancestor but this
        raise translate_hub_error(error, spec) from error
    return Path(folder)


def translate_hub_error(error: Exception, spec: ModelSpec) -> PawfectError:
    """ConfigurationError for what no retry mends, WeightsUnavailable for the rest."""
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    said = f"{type(error).__name__}: {str(error).strip()}"
    # The client wraps a refusal as if a file were missing from its cache.
    answer = next((cause for cause in _chain(error) if isinstance(cause, HfHubHTTPError)), None)
    if isinstance(answer, RevisionNotFoundError):
        return ConfigurationError(f"{spec.repo} has no revision {spec.revision} on the hub: {said}")
    if answer is not None and (
        answer.response.status_code in {401, 403} or isinstance(answer, RepositoryNotFoundError)
    ):
        return ConfigurationError(
            f"The hub does not give us {spec.repo}. Its licence ({spec.licence}) must be accepted on the repository's "
            f"page, and HF_TOKEN must hold a token of the account that did: {said}"
        )
    return WeightsUnavailable(f"{spec.repo} could not be fetched from the hub: {said}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
