"""How many replicas a deployment should have, from the work that waits for it. Pure arithmetic, without Ray.

A deployment needs as many replicas as clear its backlog within the wait that is aimed at, and no fewer than do what has
been coming in lately at the utilisation that is aimed at: the first acts within seconds on a burst, the second keeps
what a steady load needs, whose queue is short. More is wanted at once; less is wanted one replica at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

TOLERANCE = 0.1
"""Of a replica: so much more work than the replicas there are can do is not worth a start."""


class Rules(BaseModel):
    """How one deployment is scaled; `policy_kwargs` in serve_config.yaml.

    A replica that starts in place of one that ended counts as one that has never run: if it is not needed just then, it
    is given up at once, without `down_after_s` and `zero_after_s`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    target_wait_s: float = Field(30, gt=0, description="the backlog is to be cleared within this, in seconds")
    utilisation: float = Field(0.8, gt=0, le=1, description="share of their time that replicas are to work")
    places: float = Field(1, gt=0, description="jobs that Editors hold for one replica, so that it never waits")
    down_after_s: float = Field(300, ge=0, description="less must have been enough for so long, for each replica less")
    zero_after_s: float = Field(900, ge=0, description="the last replica goes after so long without any work")


@dataclass(frozen=True, slots=True)
class Demand:
    """The work for a deployment. `jobs` wait or run, `backlog_s` are the replica seconds they will take, `busy` is the
    number of replicas that what has ended lately kept working; `pin` and `floor` are what somebody set by hand."""

    jobs: float = 0.0
    backlog_s: float = 0.0
    busy: float = 0.0
    pin: int | None = None
    floor: int | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """`replicas` is a whole number; `wanted` is what the work alone would take, a fraction. `lower_since` is the time
    since which fewer would have been enough, None while they would not."""

    replicas: int
    wanted: float
    lower_since: float | None


def estimate(demand: Demand, rules: Rules) -> float:
    """Replicas the work takes, as a fraction. A job cannot be done by two, so there is no use in more than jobs."""
    burst = min(demand.backlog_s / rules.target_wait_s, demand.jobs)
    return max(burst, demand.busy / rules.utilisation)


def decide(
    now: float, target: int, starting: int, demand: Demand, rules: Rules, lower_since: float | None = None
) -> Decision:
    """`target` and `lower_since` are the last decision's, `starting` of its replicas have never run yet. What is set
    by hand is obeyed at once; Serve keeps the bounds of the deployment, min_replicas and max_replicas, itself."""
    wanted = estimate(demand, rules)
    if demand.pin is not None:
        return Decision(demand.pin, wanted, None)
    enough = max(_round(wanted), demand.floor or 0, 1 if demand.jobs > 0 else 0)
    if demand.jobs == 0 and target <= 1:
        enough = demand.floor or 0  # what was busy lately is no reason for the last one, only for more than one
    # A replica that still waits for a machine when it is not needed any more would bring that machine for nothing.
    target = max(enough, target - starting)
    if enough >= target:
        return Decision(enough, wanted, None)
    lower_since = now if lower_since is None else lower_since
    if now - lower_since < (rules.zero_after_s if target == 1 else rules.down_after_s):
        return Decision(target, wanted, lower_since)
    return Decision(target - 1, wanted, now)


def count_editors(held: float, slots: float, jobs: float) -> float:
    """Editors, as a fraction, that hold `held` jobs for the engines; never more than there are jobs for."""
    return min(held, jobs) / slots


def _round(wanted: float) -> int:
    return max(0, math.ceil(wanted - TOLERANCE))
