"""The text encoders' replica counts its loads as those of the engines do; the class is held without Ray."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.deployments.prompt_encoder import NAME, PromptEncoderShell
from serve_app.errors import ConfigurationError
from serve_app.flux import assembly
from serve_app.metrics import PlainSink
from serve_app.settings import Settings


def loads(sink: PlainSink) -> tuple[float | None, ...]:
    name = "pawfect_engine_loads_total"
    return tuple(sink.value(name, engine=NAME, outcome=outcome) for outcome in ("loaded", "failed"))


async def test_a_load_is_counted_though_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "load_encoder", lambda *_, **__: "encoders")
    monkeypatch.setattr("serve_app.deployments.prompt_encoder.INTERVAL_S", 0.01)
    sink = PlainSink()
    shell = PromptEncoderShell(Settings(), "flux-fill-dev", sink)
    async with asyncio.timeout(10):
        while not sink.value("pawfect_engine_ready", engine=NAME):
            await asyncio.sleep(0.01)
    await shell.check_health()
    await shell.stop()
    assert loads(sink) == (1, 0)
    assert sink.value("pawfect_gpu_held_seconds_total", engine=NAME) == 0


async def test_a_failed_load_is_counted_and_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConfigurationError("no such checkpoint")

    monkeypatch.setattr(assembly, "load_encoder", fail)
    sink = PlainSink()
    shell = PromptEncoderShell(Settings(), "flux-fill-dev", sink)
    assert isinstance(await shell.encode("grass"), Exception)
    with pytest.raises(RuntimeError, match="no such checkpoint"):
        await shell.check_health()
    await shell.stop()
    assert loads(sink) == (0, 1)
