"""Other programs: git, kubectl, gcloud, a builder of images. Never through a shell, and no secret in an argument."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from delivery.errors import DeliveryError

LONGEST_S = 300.0
"""For a program that only asks or applies; kubectl itself gives up on a silent server much earlier."""


@dataclass(frozen=True, slots=True)
class Output:
    status: int
    out: str
    error: str

    @property
    def reason(self) -> str:
        """What the program complained of, in one line."""
        lines = [line.strip() for line in (self.error or self.out).splitlines() if line.strip()]
        return " ".join(lines) or f"it ended with status {self.status} and said nothing"


def ask(command: Sequence[str], *, given: str | None = None, folder: Path | None = None) -> Output:
    """Run it to its end, with `given` as its input. Raises DeliveryError if it is not there or hangs."""
    try:
        done = subprocess.run(  # noqa: S603
            command, input=given, cwd=folder, capture_output=True, text=True, timeout=LONGEST_S, check=False
        )
    except FileNotFoundError:
        raise DeliveryError(f"{command[0]} is not installed, or not in PATH.") from None
    except subprocess.TimeoutExpired:
        raise DeliveryError(f"{_name(command)} has not ended after {LONGEST_S:.0f} s.") from None
    return Output(done.returncode, done.stdout, done.stderr)


def demand(command: Sequence[str], *, given: str | None = None, folder: Path | None = None) -> str:
    """Its output. Raises DeliveryError with what it complained of when it fails."""
    output = ask(command, given=given, folder=folder)
    if output.status != 0:
        raise DeliveryError(f"{_name(command)} failed: {output.reason}")
    return output.out


def watch(command: Sequence[str], folder: Path | None = None) -> None:
    """Run it with its output on ours, however long it takes. Raises DeliveryError when it fails."""
    try:
        done = subprocess.run(command, cwd=folder, check=False)  # noqa: S603
    except FileNotFoundError:
        raise DeliveryError(f"{command[0]} is not installed, or not in PATH.") from None
    if done.returncode != 0:
        raise DeliveryError(f"{_name(command)} failed with status {done.returncode}; see above.")


def _name(command: Sequence[str]) -> str:
    """The program and its verb; the rest may be long."""
    return " ".join([command[0], *(word for word in command[1:] if not word.startswith("-"))][:3])
