"""Writes the Grafana dashboards, `k8s/dashboards/*.json`.

With `--check` nothing is written; a file that is not up to date is an error.
"""

from __future__ import annotations

import sys

from monitoring.pages import FOLDER, find_stale, make_pages


def main() -> int:
    pages = make_pages()
    stale = find_stale(pages)
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.name} does not show monitoring/ as it is; run make docs")
        return 1 if stale else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in stale:
        if path in pages:
            path.write_text(pages[path])
        else:
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
