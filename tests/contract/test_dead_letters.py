"""What the embedded place for dead letters promises; Pub/Sub keeps no list that could be asked for."""

from __future__ import annotations

from serve_app.jobs.dead_letters import DeadLetter
from serve_app.stores import Stores
from tests.contract.conftest import embedded_only


def make_letter(name: str, at: float) -> DeadLetter:
    return DeadLetter(name, at, "mask_empty", "Nothing is white.", "eyJ9", {"sessionId": "s"})


@embedded_only
async def test_letters_are_kept_whole_newest_first(stores: Stores) -> None:
    old, new = make_letter("a", 1.0), make_letter("b", 2.0)
    for letter in (old, new):
        await stores.dead_letters.put(letter)
    assert list(await stores.dead_letters.latest(10)) == [new, old]
    assert list(await stores.dead_letters.latest(1)) == [new]


@embedded_only
async def test_the_same_letter_twice_is_one(stores: Stores) -> None:
    for _ in range(2):
        await stores.dead_letters.put(make_letter("a", 1.0))
    assert len(await stores.dead_letters.latest(10)) == 1
