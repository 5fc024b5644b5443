"""Writes the pages that come from the code: `.env.example`, the README's tables of settings and qualities, and the
Firestore indexes.

With `--check` nothing is written; a page that is not up to date is an error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from serve_app.jobs.firestore_jobs import COMPOSITE_INDEXES, TTL_FIELD
from serve_app.settings_pages import write_env_example, write_qualities, write_table
from serve_app.settings_sections import GoogleSettings

ROOT = Path(__file__).resolve().parent.parent


def make_pages() -> dict[Path, str]:
    readme = ROOT / "README.md"
    return {
        ROOT / ".env.example": write_env_example(),
        ROOT / "firestore.indexes.json": write_indexes(),
        readme: _fill(_fill(readme.read_text(), "settings", write_table()), "qualities", write_qualities()),
    }


def _fill(text: str, name: str, table: str) -> str:
    """Put a table between its two marks."""
    begin, end = f"<!-- {name}: written by `make docs` -->\n", f"<!-- /{name} -->"
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return before + begin + table + end + after


def write_indexes() -> str:
    """The composite indexes and the TTL policy of the jobs collection, as `firebase deploy --only firestore:indexes`
    takes them; the field of the policy is exempt from indexing."""
    collection = GoogleSettings().jobs_collection
    indexes = [
        {
            "collectionGroup": collection,
            "queryScope": "COLLECTION",
            "fields": [_order(field) for field in fields],
        }
        for fields in COMPOSITE_INDEXES
    ]
    policy = {"collectionGroup": collection, "fieldPath": TTL_FIELD, "ttl": True, "indexes": []}
    return json.dumps({"indexes": indexes, "fieldOverrides": [policy]}, indent=2) + "\n"


def _order(field: str) -> dict[str, str]:
    order = "DESCENDING" if field.startswith("-") else "ASCENDING"
    return {"fieldPath": field.removeprefix("-"), "order": order}


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
