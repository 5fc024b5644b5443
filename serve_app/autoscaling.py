"""The scaling policy as Serve calls it, in its controller, for the whole application: `autoscaling_policy` in
serve_config.yaml.

What is known of the work comes from the Editors, as their custom autoscaling statistics (`jobs.demand` says what each
key means). While no Editor has spoken lately, everything stays as it is. Nothing here may raise: the controller decides
about every deployment in the same loop.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from serve_app.jobs.demand import BACKLOG, BUSY, FLOOR, JOBS, PIN, SEPARATOR, SLOTS, STARTING, name_key
from serve_app.jobs.model import Lane
from serve_app.scaling import Demand, Rules, count_editors, decide
from serve_app.telemetry import OnceInAWhile, write_json

log = logging.getLogger(__name__)

EDITOR = "Editor"
STALE_S = 30.0
"""An Editor's figures older than this are not believed; it says them every second or so."""
LOWER_SINCE = "lower_since"
SERVICE = "pawfect"
"""In log lines; the controller is started without our settings."""


class BacklogPolicy:
    """`deployments` are the `scaling.Rules` by deployment, `lanes` the engines' deployments by lane."""

    def __init__(self, deployments: Mapping[str, Mapping[str, Any]], lanes: Mapping[str, list[str]]) -> None:
        self._rules = {name: Rules.model_validate(rules or {}) for name, rules in deployments.items()}
        self._is_deaf = False
        self._lanes = {Lane(lane): tuple(names) for lane, names in lanes.items()}
        log.filters = [OnceInAWhile(logging.ERROR)]  # the controller asks ten times a second

    def __call__(self, contexts: Mapping[Any, Any]) -> tuple[dict[Any, float], dict[Any, dict[str, Any]]]:
        if not log.hasHandlers():  # Serve's controller configures its own logger alone
            write_json(log, SERVICE)
        try:
            return self._decide(contexts)
        except Exception:
            log.exception("no decision about replicas; they stay as they are")
            return {}, {key: dict(context.policy_state) for key, context in contexts.items()}

    def _decide(self, contexts: Mapping[Any, Any]) -> tuple[dict[Any, float], dict[Any, dict[str, Any]]]:
        editor = next((context for context in contexts.values() if context.deployment_name == EDITOR), None)
        figures = Figures(editor) if editor is not None else None
        self._complain(is_deaf=editor is None and bool(contexts))
        running = {context.deployment_name: context.current_num_replicas for context in contexts.values()}
        decisions: dict[Any, float] = {}
        states: dict[Any, dict[str, Any]] = {}
        for key, context in contexts.items():
            name = context.deployment_name
            state = dict(context.policy_state)
            demand = self._find_demand(context, figures, running)
            if demand is not None:
                rules = self._rules.get(name, Rules())
                target, now = context.target_num_replicas, context.current_time
                starting = int(figures.latest(STARTING, name)) if figures is not None else 0
                decision = decide(now, target, starting, demand, rules, state.get(LOWER_SINCE))
                decisions[key] = decision.replicas
                _outvote_cold_start(context, decision.replicas)
                state[LOWER_SINCE] = decision.lower_since
            states[key] = state
        return decisions, states

    def _complain(self, *, is_deaf: bool) -> None:
        """Once, not ten times a second."""
        if is_deaf and not self._is_deaf:
            log.error(
                "%s has no autoscaling_config, so nothing is known of the work and nothing is scaled by it", EDITOR
            )
        self._is_deaf = is_deaf

    def _find_demand(self, context: Any, figures: Figures | None, running: Mapping[str, int]) -> Demand | None:
        """None where nothing is known, so that nothing is changed."""
        name = context.deployment_name
        if name == EDITOR:
            return None if figures is None or not figures.is_fresh else self._demand_editors(figures, running)
        if not any(name in engines for engines in self._lanes.values()):
            # Called by others for every single thing, such as the prompt encoder: its requests are its work.
            pin, floor = _read_hands(figures, name) if figures is not None else (None, None)
            return Demand(jobs=context.total_num_requests, pin=pin, floor=floor)
        if figures is None or not figures.is_fresh:
            return None
        pin, floor = _read_hands(figures, name)
        return Demand(
            jobs=figures.latest(JOBS, name),
            backlog_s=figures.mean(BACKLOG, name),
            busy=figures.total(BUSY, name),
            pin=pin,
            floor=floor,
        )

    def _demand_editors(self, figures: Figures, running: Mapping[str, int]) -> Demand:
        """As many as hold what the engines can take, in the lane that needs the most of them. Engines that still start
        can take nothing: jobs claimed for them would only be put back."""
        wanted = 0.0
        for lane, names in self._lanes.items():
            held = sum(running.get(name, 1) * self._rules.get(name, Rules()).places for name in names)
            jobs = sum(figures.latest(JOBS, name) for name in names)
            wanted = max(wanted, count_editors(held, max(1.0, figures.latest(SLOTS, str(lane))), jobs))
        utilisation = self._rules.get(EDITOR, Rules()).utilisation
        pin, floor = _read_hands(figures, EDITOR)
        return Demand(jobs=1, busy=wanted * utilisation, pin=pin, floor=floor)


class Figures:
    """What the Editors said last. A figure of the whole store is the latest that anybody said; of an Editor's own, such
    as what it had done, the sum. The backlog is the mean: each counts the same jobs in seconds that it has measured
    itself, and were one believed at a time, the number of replicas would change with whoever spoke last."""

    def __init__(self, editor: Any) -> None:
        self._series: Mapping[str, Mapping[Any, Any]] = editor.raw_metrics or {}
        self._now = editor.current_time
        self._spoke_at: dict[Any, float] = {}
        for key, series in self._series.items():
            for replica, points in series.items():
                if SEPARATOR in key and points:  # Serve's own statistics are there, too
                    self._spoke_at[replica] = max(self._spoke_at.get(replica, 0.0), points[-1].timestamp)

    @property
    def is_fresh(self) -> bool:
        return any(True for series in self._series.values() for _ in self._fresh(series))

    def latest(self, kind: str, name: str) -> float:
        found = list(self._fresh(self._series.get(name_key(kind, name), {})))
        return float(max(found, key=lambda point: point[0])[1]) if found else 0.0

    def mean(self, kind: str, name: str) -> float:
        found = [value for _, value in self._fresh(self._series.get(name_key(kind, name), {}))]
        return sum(found) / len(found) if found else 0.0

    def total(self, kind: str, name: str) -> float:
        return float(sum(value for _, value in self._fresh(self._series.get(name_key(kind, name), {}))))

    def _fresh(self, series: Mapping[Any, Any]) -> Iterable[tuple[float, float]]:
        """The last point of each Editor. Serve keeps for half a minute what an Editor has left out since, such as a
        number that is no longer set by hand."""
        for replica, points in series.items():
            if points and self._now - STALE_S < points[-1].timestamp == self._spoke_at.get(replica):
                yield points[-1].timestamp, points[-1].value


def _outvote_cold_start(context: Any, replicas: int) -> None:
    """While none of a deployment's replicas runs and a request waits for one, Serve takes the larger of one and the
    target it finds in the context, and drops what the policy says: for the minutes until the first one runs, a burst
    or a number set by hand would count for nothing."""
    if context.current_num_replicas == 0 and context.total_num_requests > 0:
        context.target_num_replicas = replicas


def _read_hands(figures: Figures, name: str) -> tuple[int | None, int | None]:
    """The pin and the floor. Statistics are numbers: 0 stands for what nobody set."""
    return int(figures.latest(PIN, name)) or None, int(figures.latest(FLOOR, name)) or None
