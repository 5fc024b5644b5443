"""Writes the pages that come from the code: `.env.example`, the README's configuration table, the Firestore indexes.

With `--check` nothing is written; a page that is not up to date is an error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from serve_app.jobs.firestore import COMPOSITE_INDEXES
from serve_app.settings import GoogleSettings, write_env_example, write_table

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- settings: written by `make docs` -->\n", "<!-- /settings -->"


def make_pages() -> dict[Path, str]:
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    _, after = rest.split(END)
    return {
        ROOT / ".env.example": write_env_example(),
        ROOT / "firestore.indexes.json": write_indexes(),
        readme: before + BEGIN + write_table() + END + after,
    }


def write_indexes() -> str:
    """The composite indexes of the jobs collection, as `firebase deploy --only firestore:indexes` takes them."""
    collection = GoogleSettings().jobs_collection
    indexes = [
        {
            "collectionGroup": collection,
            "queryScope": "COLLECTION",
            "fields": [{"fieldPath": field, "order": "ASCENDING"} for field in fields],
        }
        for fields in COMPOSITE_INDEXES
    ]
    return json.dumps({"indexes": indexes, "fieldOverrides": []}, indent=2) + "\n"


def main() -> int:
    stale = [path for path, text in make_pages().items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.name} does not show the settings as they are; run make docs")
        return 1 if stale else 0
    for path, text in make_pages().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
