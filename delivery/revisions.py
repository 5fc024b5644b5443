"""Commits: which one an image is of, and the files as they were at it."""

from __future__ import annotations

import re
import shutil
import tarfile
from pathlib import Path

from delivery.errors import DeliveryError
from delivery.processes import ask, demand

DIRTY = "-dirty"
"""Ends the tag of an image whose files were never committed; no other clone can make it again."""

RELEASE = re.compile(r"v\d+\.\d+\.\d+")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
"""What a registry accepts as a tag, https://github.com/opencontainers/distribution-spec, section Pull."""


def read_head(root: Path) -> str:
    """The full SHA of what is checked out."""
    return demand(["git", "rev-parse", "--verify", "HEAD^{commit}"], folder=root).strip()


def list_changes(root: Path, *paths: str) -> list[str]:
    """Files that are not as committed, or not committed at all; ignored ones do not count."""
    return demand(["git", "status", "--porcelain", "--", *paths], folder=root).splitlines()


def list_releases(root: Path) -> list[str]:
    """The release tags, vX.Y.Z, that the checked-out commit carries."""
    return [tag for tag in demand(["git", "tag", "--points-at", "HEAD"], folder=root).split() if RELEASE.fullmatch(tag)]


def resolve(root: Path, tag: str | None) -> str:
    """The image tag that is meant: the full SHA of a commit, release or abbreviation, or of what is checked out. That
    of uncommitted files stays as it is. Raises DeliveryError when this clone has no such commit."""
    if tag is None:
        return read_head(root)
    check_tag(tag)
    if tag == read_head(root) + DIRTY:
        return tag
    if tag.endswith(DIRTY):
        raise DeliveryError(f"{tag} was built of files that were never committed, on another commit than this one.")
    found = ask(["git", "rev-parse", "--verify", "--quiet", f"{tag}^{{commit}}"], folder=root)
    if found.status != 0:
        raise DeliveryError(f"{tag} is no commit or release that this clone has; `git fetch --unshallow --tags` first.")
    return found.out.strip()


def check_tag(tag: str) -> None:
    if not _TAG.fullmatch(tag):
        raise DeliveryError(f"{tag!r} is no tag that an image can have.")


def export(root: Path, tag: str, path: str, into: Path) -> None:
    """Write `path`, as it was at the tag's commit, under `into`; for uncommitted files as it is now. Raises
    DeliveryError when the commit has no such path."""
    if tag.endswith(DIRTY):
        shutil.copytree(root / path, into / path)
        return
    archive = into / "archive.tar"
    made = ask(["git", "archive", "--format=tar", f"--output={archive}", tag, "--", path], folder=root)
    if made.status != 0:
        raise DeliveryError(f"{path} of commit {tag[:12]} cannot be read: {made.reason}")
    with tarfile.open(archive) as files:
        files.extractall(into, filter="data")
    archive.unlink()
