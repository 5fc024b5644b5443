"""Looks for secrets in log files, in every form in which they are likely to be written."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

_COLOURS = re.compile(rb"\x1b\[[0-9;]*m")
_REPLICA = re.compile(rb"^\(.*? pid=\d+(?:, ip=[^)]*)?\) ")
"""What Ray puts before a line of a replica where it repeats it."""
LEAST_BYTES = 8
"""Of a canary: fewer would be found by chance."""


@dataclass(frozen=True)
class Leak:
    name: str
    path: Path
    line: int


def find_leaks(canaries: Mapping[str, bytes], paths: Iterable[Path]) -> list[Leak]:
    """Where a canary stands: as it is, in hex, percent-encoded, as Python or JSON write it, or as base64 of itself or
    of something around it."""
    forms = {name: _write_forms(canary) for name, canary in canaries.items()}
    return [
        Leak(name, path, number)
        for path in paths
        for number, line in enumerate(path.read_bytes().splitlines(), start=1)
        for name, written in forms.items()
        if any(form in line for form in written)
    ]


def _write_forms(canary: bytes) -> set[bytes]:
    assert len(canary) >= LEAST_BYTES
    try:
        text = canary.decode()
    except UnicodeDecodeError:
        text = canary.decode("latin-1")
    forms = {canary, canary.hex().encode(), repr(canary)[2:-1].encode(), quote(canary).encode()}
    forms |= {quote_plus(canary).encode(), json.dumps(text)[1:-1].encode(), repr(text)[1:-1].encode()}
    for offset in range(3):  # of the canary, in what is encoded around it
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            forms.add(_keep_certain(encode(bytes(offset) + canary), offset, len(canary)))
    return forms


def _keep_certain(encoded: bytes, offset: int, length: int) -> bytes:
    """Without the characters that what stands around the canary has a part in."""
    first = -(-offset * 8 // 6)
    return encoded[first : (offset + length) * 8 // 6]


def list_logs(*places: Path) -> list[Path]:
    """Files, and all files below folders; links once, by where they lead."""
    found = {path.resolve() for place in places for path in (place.rglob("*") if place.is_dir() else [place])}
    return sorted(path for path in found if path.is_file())


def read_own_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of this project's packages, wherever they stand in a file. Raises ValueError for one that is broken."""
    lines = []
    for line in path.read_bytes().splitlines():
        text = _REPLICA.sub(b"", _COLOURS.sub(b"", line))
        if text.startswith(b'{"time": "') and b'"logger": ' in text:
            lines.append(json.loads(text))
    return lines
