"""A mirror of hub repositories: `<mirror>/<repo>/<revision>`, usually a mounted bucket.

On a mounted bucket a file appears when it is closed, and there is no rename of a folder. So nothing may be taken for
whole before its last file lies there: readers want `model_index.json`, which is written last and removed first.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.errors import ConfigurationError, PawfectError, WeightsUnavailable

GATE = "model_index.json"
"""Without it `checkpoint.list_missing` calls the folder incomplete, whatever part is asked for."""
RECORD = "mirror.json"
"""What was put into the folder: path → bytes and sha256. For this module; the service does not read it."""
CHUNK_BYTES = 8 << 20
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}


@dataclass(frozen=True, slots=True)
class Content:
    bytes: int
    sha256: str


def list_damaged(folder: Path, *, deep: bool = False) -> list[str]:
    """Paths below `folder` that are not as its record has them; `deep` reads every byte, otherwise sizes are compared.
    Raises WeightsUnavailable when the mount fails."""
    return compare(folder, read_record(folder), deep=deep) or ([] if (folder / RECORD).is_file() else [RECORD])


def compare(folder: Path, wanted: Mapping[str, Content], *, deep: bool = False) -> list[str]:
    """Paths below `folder` that are missing or other than wanted. Raises as `list_damaged` does."""
    try:
        return sorted(name for name, content in wanted.items() if not _is_same(folder / name, content, deep=deep))
    except OSError as error:
        raise translate(error, folder) from error


def _is_same(path: Path, content: Content, *, deep: bool) -> bool:
    if not path.is_file() or path.stat().st_size != content.bytes:
        return False
    return not deep or compute_sha256(path) == content.sha256


def read_record(folder: Path) -> dict[str, Content]:
    """Empty where there is none, or none that can be read. Raises WeightsUnavailable when the mount fails."""
    try:
        found: Any = json.loads((folder / RECORD).read_text())
        return {name: Content(int(row["bytes"]), str(row["sha256"])) for name, row in found["files"].items()}
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    except OSError as error:
        raise translate(error, folder) from error


def put(source: Path, target: Path, names: Iterable[str]) -> list[str]:
    """Copy files into a folder of the mirror, so that it is whole or has no `model_index.json`. Every copy is read
    back. What lies there already with the same bytes is left; so is what `names` do not name. Returns what was copied.

    Raises ConfigurationError when the mirror cannot be written, WeightsUnavailable for the rest; then a second call
    goes on where this one ended.
    """
    try:
        wanted = {name: _describe(source / name) for name in names}
        changed = compare(target, wanted, deep=True)
        record = read_record(target)
        if not changed and record == record | wanted:
            return []
        target.mkdir(parents=True, exist_ok=True)
        (target / GATE).unlink(missing_ok=True)
        for name in changed:
            if name != GATE:
                _copy(source / name, target / name, wanted[name])
        _write(target / RECORD, _format(record | wanted))
        _copy(source / GATE, target / GATE, wanted[GATE])
    except OSError as error:
        raise translate(error, target) from error
    return sorted({*changed, GATE})


def put_file(source: Path, target: Path) -> bool:
    """The same of a single file, and whether it was copied."""
    try:
        content = _describe(source)
        if _is_same(target, content, deep=True):
            return False
        _copy(source, target, content)
    except OSError as error:
        raise translate(error, target) from error
    return True


def _describe(path: Path) -> Content:
    return Content(path.stat().st_size, compute_sha256(path))


def _copy(source: Path, target: Path, content: Content) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as read, target.open("wb") as written:
        while chunk := read.read(CHUNK_BYTES):
            written.write(chunk)
        written.flush()
        os.fsync(written.fileno())  # on a mounted bucket this is the upload
    if not _is_same(target, content, deep=True):
        raise WeightsUnavailable(f"{target} does not read as it was written; run this again")


def _write(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _format(record: Mapping[str, Content]) -> str:
    files = {name: {"bytes": row.bytes, "sha256": row.sha256} for name, row in sorted(record.items())}
    return json.dumps({"files": files}, indent=1) + "\n"


def compute_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_writable(folder: Path) -> None:
    """By writing a file and removing it, since a mount does not tell otherwise. Raises as `put` does."""
    probe = folder / f".writable-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(probe, "")
        probe.unlink()
    except OSError as error:
        raise translate(error, folder) from error


def translate(error: OSError, folder: Path) -> PawfectError:
    if error.errno in _REFUSED:
        return ConfigurationError(
            f"{folder} cannot be written: {error.strerror}. The volume must not be mounted read-only, and of a bucket "
            "the service account needs roles/storage.objectUser."
        )
    if error.errno == errno.ENOSPC:
        return ConfigurationError(f"{folder} is full: {error}")
    return WeightsUnavailable(f"{folder} cannot be read or written: {error}")
