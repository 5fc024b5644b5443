"""What operators set by hand while the service runs: a pause, and numbers of replicas. One document for everybody.

Every replica that has to obey reads it every few seconds (`ControlsWatch`), so nothing is restarted and nothing
deployed. Whatever is set may end by itself: a floor for a campaign is not forgotten the week after.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Protocol

from serve_app import metrics
from serve_app.clock import Clock
from serve_app.errors import Paused, StoreUnavailable
from serve_app.metrics import Sink

log = logging.getLogger(__name__)

INTERVAL_S = 3.0
"""How often a replica reads the document: one Firestore read each time."""
NOT_SET = -1.0
"""Shown by the gauge for a number that nobody set."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Since `at`, set by `by` for the reason `why`, until `until` or until somebody ends it. Unix times."""

    at: float
    why: str
    by: str
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Hand:
    """Replicas of one deployment as somebody wants them: exactly `pin`, or at least `floor`."""

    at: float
    why: str
    by: str
    pin: int | None = None
    floor: int | None = None
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Controls:
    pause: Pause | None = None
    hands: Mapping[str, Hand] = field(default_factory=lambda: MappingProxyType({}))

    def find_pause(self, now: float) -> Pause | None:
        """The pause in force."""
        return self.pause if self.pause is not None and _is_in_force(self.pause.until, now) else None

    def list_hands(self, now: float) -> dict[str, Hand]:
        """What is in force, by deployment."""
        return {name: hand for name, hand in self.hands.items() if _is_in_force(hand.until, now)}

    def with_pause(self, pause: Pause | None) -> Controls:
        return replace(self, pause=pause)

    def with_hand(self, deployment: str, hand: Hand | None) -> Controls:
        hands = {name: each for name, each in self.hands.items() if name != deployment}
        return replace(self, hands={**hands, deployment: hand} if hand is not None else hands)


EMPTY = Controls()


def _is_in_force(until: float | None, now: float) -> bool:
    return until is None or now < until


def to_document(controls: Controls) -> dict[str, Any]:
    return {
        "pause": asdict(controls.pause) if controls.pause else None,
        "replicas": {name: asdict(hand) for name, hand in controls.hands.items()},
    }


def from_document(document: Mapping[str, Any] | None) -> Controls:
    """What a newer version has written besides is left out: it must not end a pause."""
    if document is None:
        return EMPTY
    pause = document.get("pause")
    hands = {name: Hand(**_pick(Hand, hand)) for name, hand in (document.get("replicas") or {}).items()}
    return Controls(Pause(**_pick(Pause, pause)) if pause else None, MappingProxyType(hands))


def _pick(kind: type[Pause | Hand], values: Mapping[str, Any]) -> dict[str, Any]:
    return {each.name: values[each.name] for each in fields(kind) if each.name in values}


class ControlStore(Protocol):
    """Both raise StoreUnavailable."""

    async def read(self) -> Controls: ...

    async def change(self, decide: Callable[[Controls], Controls]) -> Controls:
        """Replace what is there with what `decide` makes of it, which may be called several times."""


class ControlsWatch:
    """The controls as last read; while the store does not answer, those of before are obeyed."""

    def __init__(self, store: ControlStore, clock: Clock, sink: Sink, deployments: tuple[str, ...] = ()) -> None:
        """`deployments` are those whose numbers are shown as metrics, set or not; what else is set shows as `other`.
        Without any no numbers are shown: one kind of replica has to, and all others would repeat them."""
        self._store = store
        self._clock = clock
        self._sink = sink
        self._deployments = deployments
        self._is_read = False
        self.current = EMPTY

    @property
    def is_paused(self) -> bool:
        """Also until they have been read for the first time: a replica that starts during a pause must not work."""
        return not self._is_read or self.has_pause

    @property
    def has_pause(self) -> bool:
        """Whether one is in force that has been read."""
        return self.current.find_pause(self._clock.now()) is not None

    def check(self) -> None:
        """Raises Paused."""
        if self.is_paused:
            pause = self.current.find_pause(self._clock.now())
            why = f"Paused by an operator: {pause.why}." if pause is not None else "This replica is starting."
            raise Paused(f"{why} Send it again later.")

    async def run(self) -> None:
        while True:
            await self.refresh()
            await asyncio.sleep(INTERVAL_S)

    async def refresh(self) -> None:
        """Read them once. Where the first read fails there are none to obey, and the replica works until the next one:
        without the store it claims nothing anyway, so a pause is missed for INTERVAL_S at the most."""
        before = self._is_read and self.is_paused
        try:
            self.current = await self._store.read()
        except StoreUnavailable as error:
            log.warning("the controls cannot be read, those of before are obeyed: %s", error)
        except Exception:
            log.exception("the controls cannot be used, those of before are obeyed")
        self._is_read = True
        if before != self.is_paused:
            log.warning("consumption is %s", "paused" if self.is_paused else "resumed")
        self._show()

    def _show(self) -> None:
        self._sink.record(metrics.PAUSED, float(self.is_paused))
        if self._deployments:
            self._show_hands()

    def _show_hands(self) -> None:
        shown: dict[tuple[str, str], float] = {}
        for name in self._deployments:
            shown |= {(name, "pin"): NOT_SET, (name, "floor"): NOT_SET}
        for name, hand in self.current.list_hands(self._clock.now()).items():
            # A name from the document is no label: anybody may have written anything there.
            label = name if name in self._deployments else "other"
            for kind, number in (("pin", hand.pin), ("floor", hand.floor)):
                shown[label, kind] = max(shown.get((label, kind), NOT_SET), NOT_SET if number is None else number)
        for (label, kind), value in shown.items():
            self._sink.record(metrics.REPLICAS_BY_HAND, value, deployment=label, kind=kind)
