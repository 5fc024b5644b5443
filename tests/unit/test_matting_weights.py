"""Where the matting model's file comes from: every source that can be named, and what each says when it fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from serve_app import matting_weights
from serve_app.errors import ConfigurationError, WeightsUnavailable
from serve_app.google_clients import EMULATOR_VARIABLES
from serve_app.matting_weights import locate_matting
from serve_app.settings import Settings
from serve_app.settings_headshots import HeadshotSettings
from serve_app.settings_sections import EngineSettings

COMMIT = "0" * 40
HUB = f"somebody/matting@{COMMIT}/onnx/model v2#a.onnx"
CONTENT = b"a network" * 5000


class Hub(BaseHTTPRequestHandler):
    """Has the one file; `cut` sends half of it and hangs up."""

    asked: list[tuple[str, str | None]]
    cut = False

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        found = self.path == f"/somebody/matting/{COMMIT}/onnx/model%20v2%23a.onnx"
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(CONTENT) if found else 0))
        self.end_headers()
        if found:
            self.wfile.write(CONTENT[: len(CONTENT) // 2] if self.cut else CONTENT)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    kind = type("OneHub", (Hub,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/{{repo}}/{{revision}}/{{file}}"
    monkeypatch.setattr(matting_weights, "HUB_URL", url)
    yield kind
    server.shutdown()
    server.server_close()


def configure(tmp_path: Path, **headshots: object) -> Settings:
    return Settings(headshots=HeadshotSettings(**headshots), engines=EngineSettings(weights_dir=tmp_path / "w"))


def test_a_file_on_disk_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.onnx"
    path.write_bytes(CONTENT)
    assert locate_matting(configure(tmp_path, matting_path=path), "u2netp") == path


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no file .*mine\.onnx"):
        locate_matting(configure(tmp_path, matting_path=tmp_path / "mine.onnx"), "u2netp")


def test_the_pinned_file_is_never_fetched_by_the_service(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match="make weights"):
        locate_matting(configure(tmp_path), "u2netp")


def test_a_model_without_a_pinned_file_wants_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"birefnet.*MATTING_PATH"):
        locate_matting(configure(tmp_path, matting_model="birefnet"), None)


def test_two_sources_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="MATTING_HUB and MATTING_PATH"):
        configure(tmp_path, matting_path=tmp_path, matting_hub=HUB)


def test_a_path_and_a_bucket_are_a_copy_there(tmp_path: Path) -> None:
    """As the replaced service was configured: the file is taken where it is, whatever the bucket has."""
    path = tmp_path / "mine.onnx"
    path.write_bytes(CONTENT)
    assert locate_matting(configure(tmp_path, matting_path=path, matting_gcs="gs://b/o.onnx"), None) == path


def test_the_hubs_file_is_copied_once(tmp_path: Path, hub: type[Hub]) -> None:
    settings = configure(tmp_path, matting_hub=HUB)
    path = locate_matting(settings, None, token="secret")
    assert path.read_bytes() == CONTENT
    assert locate_matting(settings, None) == path
    assert hub.asked == [(f"/somebody/matting/{COMMIT}/onnx/model%20v2%23a.onnx", "Bearer secret")]
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_half_a_file_is_none(tmp_path: Path, hub: type[Hub]) -> None:
    hub.cut = True
    settings = configure(tmp_path, matting_hub=HUB)
    with pytest.raises(WeightsUnavailable, match="cannot be had"):
        locate_matting(settings, None)
    assert list((tmp_path / "w" / "matting").iterdir()) == []
    hub.cut = False
    assert locate_matting(settings, None).read_bytes() == CONTENT


def test_a_file_the_hub_has_not_is_said(tmp_path: Path, hub: type[Hub]) -> None:
    with pytest.raises(WeightsUnavailable, match="404"):
        locate_matting(configure(tmp_path, matting_hub=f"somebody/else@{COMMIT}/m.onnx"), None)


class Bucket(BaseHTTPRequestHandler):
    """Answers every download with a checksum that is not the content's."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.send_header("X-Goog-Hash", "md5=AAAAAAAAAAAAAAAAAAAAAA==,crc32c=AAAAAA==")
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *args: object) -> None:
        pass


def test_a_buckets_file_that_was_damaged_on_its_way_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in EMULATOR_VARIABLES:
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
    settings = configure(tmp_path, matting_gcs="gs://models/nets/a.onnx")
    with pytest.raises(WeightsUnavailable, match=r"gs://models/nets/a\.onnx cannot be had"):
        locate_matting(settings.model_copy(update={"env": "gcp", "project_id": "demo"}), None)
    assert list((tmp_path / "w" / "matting").iterdir()) == []
    server.shutdown()
    server.server_close()
