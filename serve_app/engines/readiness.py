"""Whether an edit sent now could be done, from what the engines say of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serve_app.engines.loading import LoadState, Phase

IDLE = "idle"
"""An engine scaled to zero by configuration: the first job wakes it."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """`state` is loading, ready, failed, idle or unavailable; `engines` the same for each engine."""

    is_ready: bool
    state: str
    reason: str | None
    engines: Mapping[str, str]


def judge(engine: str, states: Mapping[str, LoadState | None]) -> Readiness:
    """Whether `engine`, the default quality's, can serve. None stands for an engine scaled to zero."""
    shown = {name: IDLE if state is None else str(state.phase) for name, state in states.items()}
    if engine not in states:
        return Readiness(False, "unavailable", f"The {engine} engine is not part of this installation.", shown)
    state = states[engine]
    if state is None or state.phase is Phase.READY:
        return Readiness(True, shown[engine], None, shown)
    reason = state.reason or f"The {engine} engine has been loading for {state.seconds:.0f} s."
    return Readiness(False, shown[engine], reason, shown)


def unavailable(reason: str) -> Readiness:
    return Readiness(False, "unavailable", reason, {})
