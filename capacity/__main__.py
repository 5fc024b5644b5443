"""Writes the tables of docs/operations.md.

With `--check` nothing is written; a page that is not up to date is an error.
"""

from __future__ import annotations

import sys

from capacity.pages import PAGE, fill


def main() -> int:
    page = PAGE.read_text()
    filled = fill(page)
    if "--check" in sys.argv[1:]:
        if page != filled:
            print(f"{PAGE.name} does not show capacity/ as it is; run make docs")
        return int(page != filled)
    PAGE.write_text(filled)
    return 0


if __name__ == "__main__":
    sys.exit(main())
