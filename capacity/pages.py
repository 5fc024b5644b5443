"""docs/operations.md with its tables as the code computes them."""

from __future__ import annotations

from pathlib import Path

from capacity.tables import make_tables

PAGE = Path(__file__).resolve().parent.parent / "docs" / "operations.md"


def fill(page: str) -> str:
    """Raises ValueError where the place of a table is missing, or is there twice."""
    for name, table in make_tables().items():
        begin, end = f"<!-- capacity {name}: written by make docs -->\n", f"<!-- /capacity {name} -->"
        if page.count(begin) != 1 or page.count(end) != 1:
            raise ValueError(f"The page must have one place for the table '{name}', from {begin.strip()} to {end}.")
        before, rest = page.split(begin)
        page = before + begin + table + end + rest.split(end)[1]
    return page
