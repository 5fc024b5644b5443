"""What headshots' jobs and their files are called."""

from __future__ import annotations

import hashlib
import json
import re
import uuid

PREFIX = "headshot-"
_TICKET = re.compile(PREFIX + "([0-9a-f]{16})([0-9a-f]{16})")
NAME_CHARACTERS = 100
"""Of a safe file name at most; with the job's id in front a path stays far below what stores take."""
PATH_BYTES, PART_BYTES = 1024, 255
"""Of a path, and of each name in it, at most: what Cloud Storage and file systems take."""
EXTENSIONS = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "image/heic": "heic", "image/heif": "heif"}
"""Of the types a photo may have."""


def is_possible(path: str) -> bool:
    """Whether every store can have an object there; one that cannot would be asked for it again and again."""
    parts = path.split("/")
    if not path.isprintable() or any(part in ("", ".", "..") for part in parts):
        return False
    return len(path.encode()) <= PATH_BYTES and all(len(part.encode()) <= PART_BYTES for part in parts)


def make_safe(file_name: str, media_type: str) -> str:
    """A name of letters, digits, '.', '_' and '-', at most NAME_CHARACTERS long, that ends as its type does."""
    extension = EXTENSIONS[media_type]
    name = re.split(r"[/\\]", file_name)[-1]
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", name.rpartition(".")[0] or name)
    stem = stem.strip("_-")[: NAME_CHARACTERS - len(extension) - 1] or "photo"
    return f"{stem}.{extension}"


def draw_ticket(owner: str) -> str:
    """The id that goes with an upload link: callers may name only such ids, and only their own. Whoever publishes
    messages chooses other ones; where a caller could name those, a guessed one would show somebody else's photo."""
    nonce = uuid.uuid4().hex[:16]
    return f"{PREFIX}{nonce}{_bind(owner, nonce)}"


def is_ticket(owner: str, job_id: str) -> bool:
    """Whether this id was drawn for this caller."""
    parts = _TICKET.fullmatch(job_id)
    return parts is not None and _bind(owner, parts[1]) == parts[2]


def _bind(owner: str, nonce: str) -> str:
    return hashlib.sha256(json.dumps(["ticket", owner, nonce]).encode()).hexdigest()[:16]


def derive_headshot_id(owner: str, key: str | None) -> str:
    """`headshot-` and 32 hex digits: of the caller and its key, else drawn."""
    if key is None:
        return PREFIX + uuid.uuid4().hex
    return PREFIX + hashlib.sha256(json.dumps([owner, key]).encode()).hexdigest()[:32]
