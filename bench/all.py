"""`make bench`: every benchmark of the embedded default, one table, and one JSON line last."""

from __future__ import annotations

import asyncio
import json

from bench import edit_io, editor_memory

WANTED = {"io_ratio": 2.0, "editor_rss_mb": 900.0}
"""Figures with a bound: at most this."""


def main() -> None:
    result = {**edit_io.measure(), **asyncio.run(editor_memory.run())}
    for name, value in result.items():
        bound = f"  (at most {WANTED[name]:g})" if name in WANTED else ""
        print(f"{name:<28}{value:10.2f}{bound}")
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))


if __name__ == "__main__":
    main()
