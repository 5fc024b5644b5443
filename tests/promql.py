"""PromQL as it is parsed: which metrics an expression reads, and by which labels; and the rules' file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import yaml

RULES = Path(__file__).parents[1] / "k8s" / "alerts" / "pawfect.rules.yaml"
VARIABLES = {"quality": ".*", "engine": ".*", "__rate_interval": "5m"}
"""What Grafana puts in for the variables when everything is chosen."""


@dataclass(frozen=True)
class Rule:
    """Of an alert, `name` is the alert's; of a recording rule, the series'."""

    name: str
    is_alert: bool
    expression: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


def read_rules() -> list[Rule]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [
        Rule(
            rule.get("alert") or rule["record"],
            "alert" in rule,
            rule["expr"],
            rule.get("labels", {}),
            rule.get("annotations", {}),
        )
        for group in groups
        for rule in group["rules"]
    ]


def fill_in(expression: str, **variables: str) -> str:
    """Replace Grafana's variables; one that is not known stays, and does not parse."""
    known = VARIABLES | variables
    return re.sub(r"\$(\w+)", lambda found: known.get(found[1], found[0]), expression)


@dataclass(frozen=True)
class Reading:
    """A metric that is read, with the labels it is selected by, and those that are asked of it further out."""

    metric: str
    labels: frozenset[str]


def find_readings(expression: str) -> list[Reading]:
    """Raises ValueError for what is no PromQL."""
    return list(_walk(promql_parser.parse(fill_in(expression)), frozenset()))


def _walk(node: Any, wanted: frozenset[str]) -> Iterator[Reading]:
    match node:
        case promql_parser.VectorSelector():
            own = {matcher.name for matcher in node.matchers.matchers if matcher.name != "__name__"}
            yield Reading(node.name, wanted | own)
        case promql_parser.MatrixSelector():
            yield from _walk(node.vector_selector, wanted)
        case promql_parser.AggregateExpr():
            yield from _walk(node.expr, frozenset(node.modifier.labels) if node.modifier else frozenset())
        case promql_parser.BinaryExpr():
            matched = _find_matched(node)
            yield from _walk(node.lhs, wanted | (matched or frozenset()))
            # Where the sides are matched `on` some labels, those are all that is asked of the right one.
            yield from _walk(node.rhs, wanted if matched is None else matched)
        case promql_parser.Call():
            for argument in node.args:
                yield from _walk(argument, wanted)
        case promql_parser.SubqueryExpr() | promql_parser.ParenExpr() | promql_parser.UnaryExpr():
            yield from _walk(node.expr, wanted)


def _find_matched(node: Any) -> frozenset[str] | None:
    """The labels of `on (…)`; None without one."""
    matching = node.modifier.matching if node.modifier else None
    if matching is None or matching.type != promql_parser.LabelModifierType.Include:
        return None
    return frozenset(matching.labels)


def find_operands(expression: str) -> list[str]:
    """What an expression weighs: both sides of every comparison, `and`, `or`, `unless` and calculation, however deep,
    without numbers. Each should have something to say on a service at work, also where the whole rightly has nothing:
    an alert that does not fire."""
    return sorted({operand.prettify() for operand in _list_operands(promql_parser.parse(fill_in(expression)))})


def _list_operands(node: Any) -> Iterator[Any]:
    match node:
        case promql_parser.BinaryExpr():
            yield from _list_operands(node.lhs)
            yield from _list_operands(node.rhs)
        case promql_parser.ParenExpr():
            yield from _list_operands(node.expr)
        case promql_parser.NumberLiteral():
            return
        case promql_parser.Call(func=function) if function.name == "absent_over_time":
            # What is missed when it is not there must be there.
            yield promql_parser.parse(f"last_over_time({node.args[0].prettify()})")
        case promql_parser.Call(func=function) if function.name == "vector":
            return
        case _:
            yield node
