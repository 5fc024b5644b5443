"""What differs per project: KEY=VALUE lines of an overlay's project.env, which Terraform prints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from delivery.errors import DeliveryError

FILE = "project.env"
NEEDED = ("PROJECT_ID", "REGION", "HOSTNAME", "IMAGE")
"""What this package itself reads; the overlay's own keys are whatever its file has."""

_LINE = re.compile(r"([A-Z][A-Z0-9_]*)=(.*)")
_PLACEHOLDER = re.compile(
    r"(?<![\w-])my-project(?![\w-])|my-project-pawfect-(?:weights|headshots)|"
    r"(?<![\w-])example\.(?:com|org|net)(?![\w-]|\.\w)|(?<![\w-])TODO(?![\w-])|<[^>]*>"
)
"""What the committed file has, and how people write that something is to be filled in. Exact, because project ids such
as todo-prod and my-project-1 are real ones."""


def read_values(path: Path) -> dict[str, str]:
    """Raises DeliveryError for a file that is not there or has another kind of line."""
    try:
        text = path.read_text()
    except OSError as error:
        raise DeliveryError(f"{path} cannot be read: {error.strerror}.") from None
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise DeliveryError(f"{path}, line {number}, is not KEY=VALUE.")
        values[found[1]] = found[2]
    return values


def check_values(values: Mapping[str, str], path: Path) -> None:
    """Raises DeliveryError naming what is missing or was never filled in."""
    if missing := [key for key in NEEDED if key not in values]:
        raise DeliveryError(f"{path} has no {', '.join(missing)}; `terraform output -raw project_env` prints the file.")
    if open_ := [f"{key}={value}" for key, value in values.items() if not value or _PLACEHOLDER.search(value)]:
        raise DeliveryError(
            f"{path} still has placeholders: {', '.join(open_)}; `terraform output -raw project_env` prints the file."
        )


def merge_values(then: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """The keys that an older overlay knows, with today's values: they belong to the project, not to its version."""
    return {key: now.get(key, value) for key, value in then.items()}


def write_values(path: Path, values: Mapping[str, str]) -> None:
    path.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
