"""What a service is asked to show, and how long it may take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Check:
    """What is asked of the service at `url`. `token` is a bearer's. Times are seconds.

    `settle_s`: a load balancer hears of new pods with a delay. `edit_s` has room for an L4 that must come first, and is
    twice `old_s`, for which the Editors of the version before go on beside the new ones (rayClusterDeletionDelaySeconds
    of the RayService). `paused_s`: a replica that starts says for its first seconds that consumption is paused.
    """

    url: str
    version: str | None = None
    is_edit: bool = False
    quality: str = "auto"
    token: str | None = None
    settle_s: float = 300.0
    edit_s: float = 1200.0
    old_s: float = 600.0
    paused_s: float = 10.0
    again_s: float = 15.0
    poll_s: float = 1.0
