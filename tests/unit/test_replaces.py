"""docs/replaces.md: a row for each of the 32 faults, which names only what is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "replaces.md"
FAULTS = 32
OPEN = {20, 24}
ROW = re.compile(r"^\| (\d+) \| .+ \| (.+) \| (.+) \|$", re.MULTILINE)


def read_rows() -> dict[int, tuple[str, str]]:
    return {int(number): (now, shown) for number, now, shown in ROW.findall(PAGE.read_text())}


def test_every_fault_has_its_row_in_order() -> None:
    assert list(read_rows()) == list(range(1, FAULTS + 1))


def test_what_is_open_says_so() -> None:
    assert {number for number, (now, _) in read_rows().items() if "**open.**" in now} == OPEN


def test_what_a_row_names_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for number, (_, shown) in read_rows().items():
        for name in re.findall(r"`([^`]+)`", shown):
            if name.startswith("make "):
                assert re.search(rf"^{re.escape(name.split()[1])}:", makefile, re.MULTILINE), (number, name)
            elif "/" in name:
                path, _, test = name.partition("::")
                assert (ROOT / path).exists(), (number, name)
                assert not test or f"def {test}(" in (ROOT / path).read_text(), (number, name)
