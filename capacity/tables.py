"""The tables of docs/operations.md as Markdown, by the name of their place in the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from capacity import cold_start, costs, loads
from capacity.facts import EGRESS_GIB, L4_BF16, L4_HOUR, L4_QUOTA, L4_SPOT_HOUR, LOOKED_UP, PRICES
from capacity.limits import LIMITS
from capacity.measured import EDIT, EDIT_SECOND, HEADSHOT, HTTP_JOB, IDLE_EDITOR, IDLE_INGRESS, Calls
from capacity.photos import TFLOP, Span, find_dollars, find_seconds


def make_tables() -> dict[str, str]:
    return {
        "photo": write_photos(),
        "day": write_day(),
        "calls": write_calls(),
        "saturation": write_saturation(),
        "loads": write_loads(),
        "spike": write_spike(LIMITS.l4s),
        "cold-start": write_cold_start(),
        "prices": write_prices(),
    }


def write_photos() -> str:
    rows = []
    for quality, sizes in TFLOP.items():
        for what, tflop in zip(("median", "long leash"), sizes, strict=True):
            cells = (find_dollars(tflop, hour.value).times(100) for hour in (L4_HOUR, L4_SPOT_HOUR))
            rows.append([f"`{quality}`, {what}", f"{tflop:,}", _span(find_seconds(tflop)), *map(_span, cells)])
    start = cold_start.add_up(cold_start.list_steps())
    alone = Span(start.low + costs.HOLD_S, start.high + costs.HOLD_S)
    cells = (alone.times(hour.value / 36) for hour in (L4_HOUR, L4_SPOT_HOUR))
    rows.append(
        ["the only one for hours: cold start, itself, half an hour's hold", "", _span(alone), *map(_span, cells)]
    )
    heads = ["photo", "TFLOP", "s on an L4", "cents, on demand", "cents, Spot"]
    return _table(heads, rows)


def write_day() -> str:
    """What 500 photos a day cost beside the cluster's own cost, by how they come and what holds the L4."""
    seconds = find_seconds(TFLOP["high"][0]).middle
    busy = loads.TODAY_A_DAY * seconds / 3600
    ways = [
        ("only the work itself (no cluster does that)", busy),
        ("spread over the day, `min_replicas: 0`", costs.find_hours_up(loads.TODAY_A_DAY, seconds)),
        ("the same, 50 a day", costs.find_hours_up(50, seconds)),
        ("collected, done every 4 hours", costs.find_hours_batched(loads.TODAY_A_DAY, seconds, 6)),
        ("collected, done once a day", costs.find_hours_batched(loads.TODAY_A_DAY, seconds, 1)),
        ("one L4 always there, `min_replicas: 1`", costs.HOURS),
    ]
    rows = [
        [way, f"{hours:.1f}", *(f"{costs.price_l4(hours, spot=spot):.2f}" for spot in (False, True))]
        for way, hours in ways
    ]
    fixed = costs.list_fixed()
    own = [[cost.name, cost.how, f"{cost.dollars:.2f}"] for cost in fixed]
    photo = EDIT.plus(EDIT_SECOND, seconds)
    calls = costs.price_calls(photo) * loads.TODAY_A_DAY
    egress = EGRESS_GIB.value * loads.TODAY_A_DAY * loads.PHOTO_MB * 1e6 / 2**30
    own.append(["calls of 500 edits", "Firestore, Cloud Storage, Pub/Sub", f"{calls:.2f}"])
    own.append(["results to users", f"{loads.TODAY_A_DAY:.0f} × 2 MB, if all are looked at once", f"{egress:.2f}"])
    alone = sum(cost.dollars for cost in fixed) + calls + egress
    own.append(["**together**, without L4s", "", f"**{alone:.2f}**"])
    node = costs.price_l4_node()
    own.append([node.name, node.how, f"{node.dollars:.2f}"])
    for name, spot in (("Spot", True), ("on demand", False)):
        total = alone + node.dollars + costs.price_l4(costs.HOURS, spot=spot)
        cents = 100 * total / loads.TODAY_A_DAY
        own.append([f"**together**, with one L4 all day, {name}", f"{cents:.1f} cents a photo", f"**{total:.2f}**"])
    l4 = _table(["500 photos a day, `high`", "L4 hours a day", "$ a day, on demand", "$ a day, Spot"], rows)
    return l4 + "\n" + _table(["the rest, a day", "what", "$"], own)


def write_calls() -> str:
    what: list[tuple[str, Calls]] = [
        ("a session's edit, at no length", EDIT),
        ("… each second it runs", EDIT_SECOND),
        ("… of 18 s", EDIT.plus(EDIT_SECOND, 18)),
        ("a job over HTTP of 2 s, followed by events", HTTP_JOB),
        ("a headshot by message, 5.5 s", HEADSHOT),
        ("an idle hour of an Editor", IDLE_EDITOR),
        ("an idle hour of an Ingress replica", IDLE_INGRESS),
    ]
    rows = [
        [name, *(_count(getattr(calls, unit)) for unit in ("reads", "writes", "class_a", "class_b")),
         _megabytes(calls.bytes_in), _megabytes(calls.bytes_out), f"{costs.price_calls(calls) * 1000:.2f}"]
        for name, calls in what
    ]  # fmt: skip
    heads = ["", "reads", "writes", "class A", "class B", "MB stored", "MB fetched", "$ a thousand"]
    return _table(heads, rows)


def write_saturation() -> str:
    rows = []
    for each in loads.rank(loads.list_resources()):
        demands = [_span(each.demand(loads.SPIKE_A_SECOND * factor)) for factor in loads.FACTORS]
        factor = each.find_factor()
        limit = f"{each.limit:,.0f} {each.unit}: {each.source}"
        rows.append([each.name, limit, *demands, f"**{_span(factor)}**", each.remedy])
    heads = ["what", "limit", *(f"{factor:,}×" for factor in loads.FACTORS), "met at ×", "then"]
    return _table(heads, rows)


def write_loads() -> str:
    rows = []
    for factor in loads.FACTORS:
        exceeded = loads.find_exceeded(factor)
        l4s = loads.count_l4s(loads.SPIKE_A_SECOND * factor)
        first = f"**{exceeded[0].name}**" if exceeded else f"none, once the quota of {L4_QUOTA.value:.0f} L4s is raised"
        then = ", ".join(each.name for each in exceeded[1:]) or "–"
        whole = Span(math.ceil(l4s.low), math.ceil(l4s.high))
        photos = loads.TODAY_A_DAY * factor, loads.SPIKE_A_SECOND * factor * 3600
        rows.append([f"{factor:,}×", *(f"{count:,.0f}" for count in photos), _span(whole), first, then])
    return _table(["load", "photos a day", "in the worst hour", "L4s then", "met first", "then, in this order"], rows)


def write_spike(l4s: int) -> str:
    """What an hour at ten times today's spike, and a second one after it, leave to so many L4s at their slowest."""
    seconds, rate = find_seconds(TFLOP["high"][0]), 10 * loads.SPIKE_A_SECOND
    photos = Span(3600 * l4s / seconds.high, 3600 * l4s / seconds.low)
    said = f"- **{l4s} L4s and a spike.** They do {_span(photos).replace('–', ' to ')} photos an hour"
    waits = [loads.find_longest_wait(rate, hours, l4s, seconds.high) for hours in (1.0, 2.0)]
    if not any(waits):
        return f"{said}, which keeps up with 10 times today's spike.\n"
    left, minutes = ([_number(wait / unit) for wait in waits] for unit in (seconds.high / l4s, 60))
    return (
        f"{said}. One hour at 10 times today's spike leaves at most {left[0]} waiting, the last of them for "
        f"{minutes[0]} minutes; two such hours in a row leave {left[1]}, the last for {minutes[1]}. "
        "A job's deadline is an hour.\n"
    )


def write_cold_start() -> str:
    steps = cold_start.list_steps()
    rows = [[step.name, _span(step.seconds), step.source] for step in steps]
    total = cold_start.add_up(steps)
    rows.append(["**together**", f"**{_span(total)}**", f"a push waits {cold_start.PUSH_S:.0f} s"])
    late = Span(total.low + cold_start.SPOT_FALLBACK_S, total.high + cold_start.SPOT_FALLBACK_S)
    wait = f"+ {cold_start.SPOT_FALLBACK_S:.0f} s, `k8s/base/rayservice.yaml`"
    rows.append(["no Spot L4 to be had, then on demand", _span(late), wait])
    return _table(["from zero", "s", "source"], rows)


def write_prices() -> str:
    rows = [[fact.name, f"{fact.value:.4g}", fact.unit, fact.where] for fact in PRICES]
    rows.append([L4_BF16.name, f"{L4_BF16.value:g}", L4_BF16.unit, L4_BF16.where])
    return _table([f"as of {LOOKED_UP}", "value", "unit", "source"], rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _span(span: Span) -> str:
    low, high = _number(span.low), _number(span.high)
    return low if low == high else f"{low}–{high}"


def _number(value: float) -> str:
    """Two significant digits, and no false ones of thousands."""
    if value >= 100:
        digits = 10 ** (math.floor(math.log10(value)) - 1)
        return f"{round(value / digits) * digits:,}"
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def _count(value: float) -> str:
    return "–" if round(value, 2) == 0 else f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:.1f}"


def _megabytes(value: float) -> str:
    return "–" if value < 1e4 else f"{value / 1e6:.1f}"
