"""What the Ray shells add to the plain objects inside them; the classes are held without Ray."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from serve_app.deployments.engines import MAX_FAILURES, EngineShell
from serve_app.engines.draft import DraftEngine
from serve_app.engines.loading import Phase
from serve_app.engines.protocol import Done, Failed, Image, Mask
from serve_app.errors import ConfigurationError, EngineUnavailable
from serve_app.metrics import PlainSink
from serve_app.settings_sections import EngineSettings
from tests.shells import Shell, collect, invent


def hold_shell(
    load: Callable[[], DraftEngine], hang_timeout_s: float = 60, sink: PlainSink | None = None, gpu_share: float = 0.0
) -> Shell:
    settings = EngineSettings(hang_timeout_s=hang_timeout_s, load_backoff_s=0.01)
    return EngineShell("draft", load, settings, sink or PlainSink(), gpu_share=gpu_share)


async def test_requests_wait_for_the_model_and_then_run() -> None:
    go_on = threading.Event()

    def load() -> DraftEngine:
        go_on.wait(10)
        return DraftEngine(invent)

    shell = hold_shell(load)
    assert (await shell.load_state()).phase is Phase.LOADING
    filling = asyncio.create_task(collect(shell))
    await asyncio.sleep(0.05)
    assert not filling.done()
    go_on.set()
    assert isinstance((await filling)[-1], Done)
    assert (await shell.load_state()).phase is Phase.READY
    await shell.check_health()
    await shell.stop()


async def test_a_failed_load_is_unhealthy_and_requests_are_sent_back() -> None:
    def load() -> DraftEngine:
        raise ConfigurationError("no such file")

    shell = hold_shell(load)
    (event,) = await collect(shell)
    assert event == Failed("engine_unavailable", "no such file", retryable=True)
    with pytest.raises(RuntimeError, match="no such file"):
        await shell.check_health()
    await shell.stop()


def loads(sink: PlainSink, outcome: str) -> float | None:
    return sink.value("pawfect_engine_loads_total", engine="draft", outcome=outcome)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_replica_counts_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asks it for anything."""
    monkeypatch.setattr("serve_app.deployments.engines.INTERVAL_S", 0.01)
    sink = PlainSink()
    shell = hold_shell(lambda: DraftEngine(invent), sink=sink, gpu_share=0.5)
    await until(lambda: loads(sink, "loaded"))
    assert sink.value("pawfect_engine_ready", engine="draft") == 1

    def held() -> float:
        return sink.value("pawfect_gpu_held_seconds_total", engine="draft") or 0.0

    before = held()
    await until(lambda: held() > before)
    await shell.stop()
    assert (loads(sink, "loaded"), loads(sink, "failed")) == (1, 0)
    at_the_end = held()
    await asyncio.sleep(0.05)
    assert held() == at_the_end, "a stopped replica holds nothing"


async def test_a_failed_load_is_counted_before_its_replica_is_replaced() -> None:
    def load() -> DraftEngine:
        raise ConfigurationError("no such file")

    sink = PlainSink()
    shell = hold_shell(load, sink=sink)
    await collect(shell)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            await shell.check_health()
    await shell.stop()
    assert (loads(sink, "loaded"), loads(sink, "failed")) == (0, 1)


async def test_a_load_that_was_cut_off_by_a_stop_has_not_failed() -> None:
    go_on = threading.Event()

    def load() -> DraftEngine:
        go_on.wait(10)
        return DraftEngine(invent)

    sink = PlainSink()
    shell = hold_shell(load, sink=sink)
    await shell.stop()
    assert (await shell.load_state()).phase is Phase.FAILED
    assert (loads(sink, "loaded"), loads(sink, "failed")) == (0, 0)
    go_on.set()


async def test_a_hanging_engine_is_unhealthy() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hang(image: Image, mask: Mask) -> Image:
        begun.set()
        go_on.wait(10)
        return invent(image, mask)

    shell = hold_shell(lambda: DraftEngine(hang), hang_timeout_s=0.05)
    filling = asyncio.create_task(collect(shell))
    await asyncio.to_thread(begun.wait, 10)
    await asyncio.sleep(0.1)
    with pytest.raises(RuntimeError, match="busy with one piece of work"):
        await shell.check_health()
    go_on.set()
    await filling
    await shell.check_health()
    await shell.stop()


async def test_an_engine_whose_model_fails_again_and_again_is_unhealthy() -> None:
    broken = True

    def fail(image: Image, mask: Mask) -> Image:
        if broken:
            raise RuntimeError("an illegal memory access was encountered")
        return invent(image, mask)

    shell = hold_shell(lambda: DraftEngine(fail))
    for _ in range(MAX_FAILURES):
        await shell.check_health()
        assert isinstance((await collect(shell))[-1], Failed)
    with pytest.raises(RuntimeError, match=f"last {MAX_FAILURES} calls"):
        await shell.check_health()
    broken = False
    await collect(shell)
    await shell.check_health()
    await shell.stop()


async def test_another_model_is_loaded_once_the_first_one_has_finished() -> None:
    begun, go_on = threading.Event(), threading.Event()
    closed: list[str] = []

    def hold(image: Image, mask: Mask) -> Image:
        begun.set()
        go_on.wait(10)
        return invent(image, mask)

    class Watched(DraftEngine):
        def close(self) -> None:
            closed.append("first")
            super().close()

    loaded: list[list[str]] = []

    def load_second() -> DraftEngine:
        loaded.append(list(closed))
        return DraftEngine(invent)

    shell = hold_shell(lambda: Watched(hold))
    running = asyncio.create_task(collect(shell))
    await asyncio.to_thread(begun.wait, 10)
    reloading = asyncio.create_task(shell.reload(load_second))
    await asyncio.sleep(0.05)
    assert (await shell.load_state()).phase is Phase.LOADING
    late = asyncio.create_task(collect(shell))
    await asyncio.sleep(0.05)
    assert (late.done(), reloading.done(), loaded) == (False, False, []), "a GPU does not hold two models"
    go_on.set()
    assert isinstance((await running)[-1], Done), "what the first one held is finished"
    await reloading
    assert loaded == [["first"]]
    assert isinstance((await late)[-1], Done)
    await shell.check_health()
    await shell.stop()


async def test_a_model_that_hangs_while_it_is_to_be_replaced_is_unhealthy() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hang(image: Image, mask: Mask) -> Image:
        begun.set()
        go_on.wait(10)
        return invent(image, mask)

    shell = hold_shell(lambda: DraftEngine(hang), hang_timeout_s=0.05)
    running = asyncio.create_task(collect(shell))
    await asyncio.to_thread(begun.wait, 10)
    reloading = asyncio.create_task(shell.reload(lambda: DraftEngine(invent)))
    await asyncio.sleep(0.1)
    with pytest.raises(RuntimeError, match="busy with one piece of work"):
        await shell.check_health()
    go_on.set()
    await running
    await reloading
    await shell.check_health()
    await shell.stop()


async def test_a_model_that_was_not_begun_is_not_loaded_beside_another() -> None:
    loads: list[str] = []

    def load(name: str) -> DraftEngine:
        loads.append(name)
        return DraftEngine(invent)

    settings = EngineSettings(load_backoff_s=0.01)
    shell = EngineShell("draft", lambda: load("first"), settings, PlainSink(), start_after_s=0.1)
    await shell.reload(lambda: load("second"))
    await asyncio.sleep(0.2)
    assert loads == ["second"]
    await shell.stop()


async def test_a_second_model_that_does_not_load_is_said() -> None:
    def fail() -> DraftEngine:
        raise ConfigurationError("no such checkpoint")

    shell = hold_shell(lambda: DraftEngine(invent))
    assert isinstance((await collect(shell))[-1], Done)
    with pytest.raises(EngineUnavailable, match="no such checkpoint"):
        await shell.reload(fail)
    with pytest.raises(RuntimeError, match="no such checkpoint"):
        await shell.check_health()
    await shell.stop()
