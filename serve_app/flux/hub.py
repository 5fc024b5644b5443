"""A repository's files on the hub's word: which there are, how large, with which digests; brought to a folder so."""

from __future__ import annotations

import fnmatch
import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from serve_app.errors import WeightsUnavailable
from serve_app.flux.checkpoint import Part, list_patterns, translate_hub_error
from serve_app.flux.mirror import compute_sha256
from serve_app.flux.spec import ModelSpec

log = logging.getLogger(__name__)

TRIES = 2
"""A file that came damaged is fetched once more; the client itself has retried what the network did."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """`sha256` is given of large files; of the others git's name of the content, `blob`, is all there is."""

    bytes: int
    sha256: str | None
    blob: str

    def matches(self, path: Path) -> bool:
        """Whether the file is there with these very bytes. Raises OSError when it cannot be read."""
        if not path.is_file() or path.stat().st_size != self.bytes:
            return False
        if self.sha256 is not None:
            return compute_sha256(path) == self.sha256
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == self.blob


def list_files(spec: ModelSpec, needs: Part, token: str | None) -> dict[str, HubFile]:
    """What the pinned commit has of the parts, by path. Raises as `checkpoint.find_checkpoint` does."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    try:
        tree = list(HfApi(token=token).list_repo_tree(spec.repo, recursive=True, revision=spec.revision))
    except Exception as error:  # errors of the hub and of its transports, with no common ancestor but this
        raise translate_hub_error(error, spec) from error
    patterns = list_patterns(needs)
    return {
        each.path: HubFile(each.size, each.lfs.sha256 if each.lfs else None, each.blob_id)
        for each in tree
        if isinstance(each, RepoFile) and any(fnmatch.fnmatch(each.path, pattern) for pattern in patterns)
    }


def download(spec: ModelSpec, files: Mapping[str, HubFile], folder: Path, token: str | None) -> None:
    """Bring the files below `folder`, each exactly as the hub described it; what lies there so is left, and what was
    begun is gone on with.

    Raises as `checkpoint.find_checkpoint` does, and WeightsUnavailable when a file came damaged twice.
    """
    import huggingface_hub
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    for _ in range(TRIES):
        try:
            wrong = list(_list_wrong(files, folder))
            if not wrong:
                return
            for name in wrong:
                (folder / name).unlink(missing_ok=True)
            huggingface_hub.snapshot_download(
                spec.repo, revision=spec.revision, local_dir=folder, token=token, allow_patterns=wrong
            )
        except Exception as error:  # as above, and those of the disk
            raise translate_hub_error(error, spec) from error
    if wrong := list(_list_wrong(files, folder)):
        raise WeightsUnavailable(f"{spec.repo} came from the hub with other bytes than it says: {', '.join(wrong)}")


def _list_wrong(files: Mapping[str, HubFile], folder: Path) -> Iterator[str]:
    return (name for name, file in files.items() if not file.matches(folder / name))
