"""What operators set by hand, on every store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serve_app.jobs.controls import EMPTY, Controls, Hand, Pause
from serve_app.stores import Stores

PAUSE = Pause(100.0, "bad weights", "ops", until=200.0)
PIN = Hand(100.0, "", "ops", pin=3)
FLOOR = Hand(100.0, "campaign", "ops", floor=2, until=500.0)


async def test_nothing_is_set_at_first(stores: Stores) -> None:
    assert await stores.controls.read() == EMPTY


async def test_what_is_set_is_read_again_and_leaves_the_rest_alone(stores: Stores) -> None:
    await stores.controls.change(lambda controls: controls.with_pause(PAUSE))
    await stores.controls.change(lambda controls: controls.with_hand("FluxFill", PIN))
    changed = await stores.controls.change(lambda controls: controls.with_hand("Headshots", FLOOR))
    assert changed == await stores.controls.read() == Controls(PAUSE, {"FluxFill": PIN, "Headshots": FLOOR})
    await stores.controls.change(lambda controls: controls.with_pause(None).with_hand("FluxFill", None))
    assert await stores.controls.read() == Controls(None, {"Headshots": FLOOR})


async def test_changes_at_once_are_all_kept(stores: Stores) -> None:
    names = [f"Deployment{number}" for number in range(5)]

    def set_hand(name: str) -> Callable[[Controls], Controls]:
        return lambda controls: controls.with_hand(name, PIN)

    await asyncio.gather(*(stores.controls.change(set_hand(name)) for name in names))
    assert set((await stores.controls.read()).hands) == set(names)
