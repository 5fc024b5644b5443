"""What one caller may do: whose sessions it may touch, and how much at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

EVERYBODY = ("*",)


@dataclass(frozen=True, slots=True)
class Allowance:
    """`users` are patterns of the user ids whose sessions the caller may touch; `*` in one stands for any characters.
    `requests_per_minute` counts requests that submit work, `concurrent_jobs` jobs that have not ended; None = any
    number."""

    users: Sequence[str] = EVERYBODY
    requests_per_minute: int | None = None
    concurrent_jobs: int | None = None

    def covers(self, user_id: str) -> bool:
        return any(fnmatchcase(user_id, pattern) for pattern in self.users)

    @property
    def covers_all(self) -> bool:
        return "*" in self.users


UNBOUNDED = Allowance()
