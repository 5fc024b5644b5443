"""How a benchmark says what it found: a table, and one JSON line last."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

NONE: Mapping[str, float] = MappingProxyType({})


def print_figures(
    figures: Mapping[str, float],
    *,
    at_least: Mapping[str, float] | None = None,
    at_most: Mapping[str, float] | None = None,
) -> None:
    """`at_least` and `at_most` are the bounds of some of them, shown beside."""
    for name, value in figures.items():
        bound = f"  (at least {at_least[name]:g})" if at_least and name in at_least else ""
        bound = f"  (at most {at_most[name]:g})" if at_most and name in at_most else bound
        print(f"{name:<42}{value:12.4f}{bound}")
    print(json.dumps({name: round(value, 6) for name, value in figures.items()}))


def find_violations(
    figures: Mapping[str, float], *, at_least: Mapping[str, float] = NONE, at_most: Mapping[str, float] = NONE
) -> list[str]:
    """The bounds that do not hold, as sentences. A figure that is missing or not a number holds to none."""
    low = [
        f"{name} is {figures.get(name)}, at least {bound:g} is wanted"
        for name, bound in at_least.items()
        if not figures.get(name, float("nan")) >= bound
    ]
    high = [
        f"{name} is {figures.get(name)}, at most {bound:g} is wanted"
        for name, bound in at_most.items()
        if not figures.get(name, float("nan")) <= bound
    ]
    return low + high


def report(figures: Mapping[str, float], *, at_least: Mapping[str, float], at_most: Mapping[str, float]) -> int:
    """Print them, and the bounds that do not hold; the status to exit with."""
    violations = find_violations(figures, at_least=at_least, at_most=at_most)
    for each in violations:
        print(f"VIOLATED: {each}")
    print_figures(figures, at_least=at_least, at_most=at_most)
    return int(bool(violations))
