"""Makes an API key: `python -m pawfect.keys NAME`. The key is shown this once; what is stored is the row."""

from __future__ import annotations

import argparse
import sys

from pydantic import ValidationError

from ingress.api_keys import KeyRow, draw_key, hash_key
from ingress.problems import describe_validation


def main(arguments: list[str] | None = None) -> int:
    """Prints the key and, on the next line, its row as JSON; what to do with them goes to stderr."""
    options = _parse(arguments)
    key = draw_key()
    given = {name: value for name, value in vars(options).items() if value is not None}
    try:
        row = KeyRow.model_validate({**given, "sha256": hash_key(key)})
    except ValidationError as error:
        print(f"no key is made: {describe_validation(error.errors())}", file=sys.stderr)
        return 2
    print("The caller's key, and the row for the list in the file of PAWFECT_CALLERS__KEYS_FILE:", file=sys.stderr)
    print(key)
    print(row.model_dump_json(exclude_unset=True))
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m pawfect.keys", description="Makes an API key and the row to store.")
    parser.add_argument("name", help="the caller; a second key of the same name replaces the first without a gap")
    parser.add_argument(
        "--users",
        nargs="+",
        metavar="PATTERN",
        help="user ids whose sessions it may touch, '*' for all (default: none)",
    )
    parser.add_argument("--requests-per-minute", type=int, metavar="N", help="default: as configured")
    parser.add_argument("--concurrent-jobs", type=int, metavar="N", help="default: as configured")
    parser.add_argument("--expires-at", metavar="TIME", help="such as 2030-01-31T00:00:00Z (default: never)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
