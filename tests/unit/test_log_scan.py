"""The scanner of logs finds what is planted, in every form: a test that greps a run must be able to fail."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.log_scan import find_leaks, list_logs, read_own_lines

TEXT = "prompt-canary ü&/ 7f3a".encode()
BYTES = bytes([0, 255, 17, 200, 34, 92, 39, 150, 201, 13, 8, 77])

FORMS = {
    "plain": lambda canary: canary,
    "base64": base64.b64encode,
    "base64 in something": lambda canary: base64.b64encode(b"x" + canary + b"yy"),
    "base64 further in": lambda canary: base64.b64encode(b"xx" + canary + b"z"),
    "base64 for URLs": lambda canary: base64.urlsafe_b64encode(b'{"a": "' + canary + b'"}'),
    "percent-encoded": lambda canary: quote(canary).encode(),
    "hex": lambda canary: canary.hex().encode(),
    "Python": lambda canary: repr(canary).encode(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("canary", [TEXT, BYTES.replace(b"\r", b"")], ids=["text", "bytes"])
def test_a_planted_canary_is_found(tmp_path: Path, form: str, canary: bytes) -> None:
    path = tmp_path / "worker.err"
    path.write_bytes(b"a line\n" + b'{"message": "' + FORMS[form](canary) + b'"}\nanother\n')
    assert [(leak.name, leak.path, leak.line) for leak in find_leaks({"it": canary}, [path])] == [("it", path, 2)]
    path.write_bytes(b"a line\n" + b'{"message": "' + FORMS[form](canary[::-1]) + b'"}\nanother\n')
    assert find_leaks({"it": canary}, [path]) == []


def test_text_in_json_is_found(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(json.dumps({"message": f"sent {TEXT.decode()}"}))
    assert find_leaks({"it": TEXT}, [path])


def test_every_file_below_a_folder_is_read_once(tmp_path: Path) -> None:
    inner = tmp_path / "logs" / "serve"
    inner.mkdir(parents=True)
    (inner / "proxy.log").write_text("x")
    (tmp_path / "latest").symlink_to(tmp_path / "logs")
    assert list_logs(tmp_path / "logs", tmp_path / "latest") == [inner / "proxy.log"]


def test_own_lines_are_read_where_ray_repeats_them(tmp_path: Path) -> None:
    line = json.dumps({"time": "t", "severity": "INFO", "logger": "serve_app.x", "message": "m"})
    path = tmp_path / "service.log"
    path.write_text(f"draining\n\x1b[36m(ServeReplica:pawfect:Editor pid=7057)\x1b[0m {line}\n{line}\nINFO else\n")
    assert [found["message"] for found in read_own_lines(path)] == ["m", "m"]
    path.write_text(line[:-1])
    with pytest.raises(ValueError, match="delimiter"):
        read_own_lines(path)
