"""Engines on replicas: loading, events, metrics and health are the same for all; what is loaded differs."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ray.serve.handle import DeploymentHandle

from serve_app import metrics
from serve_app.deployments.prompt_encoder import PromptEncoderHandle
from serve_app.engines.loading import Loader, LoadState, Phase
from serve_app.engines.protocol import Engine, Event, Failed, Request
from serve_app.errors import EngineUnavailable
from serve_app.flux.spec import get_spec
from serve_app.metrics import Sink
from serve_app.ray_metrics import RaySink
from serve_app.settings import Settings
from serve_app.settings_sections import EngineSettings
from serve_app.telemetry import configure_logging

if TYPE_CHECKING:
    from serve_app.engines.draft import DraftEngine
    from serve_app.flux.engine import FluxEngine
    from serve_app.flux.text import TextEmbedding
    from serve_app.headshots.engine import HeadshotEngine

LOAD_POLL_S = 0.1
MAX_FAILURES = 5
"""Calls of a model that may fail in a row; an accelerator that was lost in an error never recovers in its process."""

AnyEngine = TypeVar("AnyEngine", bound=Engine)


class EngineShell(Generic[AnyEngine]):
    """An engine on a replica. It loads in a thread, so the replica answers while it loads."""

    def __init__(self, name: str, load: Callable[[], AnyEngine], settings: EngineSettings, sink: Sink) -> None:
        self._name = name
        self._hang_timeout_s = settings.hang_timeout_s
        self._sink = sink
        self._loader = Loader(load, name=name, timeout_s=settings.load_timeout_s, backoff_s=settings.load_backoff_s)
        self._loader.start()

    async def load_state(self) -> LoadState:
        state = self._loader.state()
        self._sink.record(metrics.ENGINE_READY, float(state.phase is Phase.READY), engine=self._name)
        if state.phase is Phase.READY:
            self._sink.record(metrics.ENGINE_LOAD_SECONDS, state.seconds, engine=self._name)
        return state

    async def run(self, request: Request) -> AsyncGenerator[Event]:
        from serve_app.engines.streaming import stream

        while self._loader.state().phase is Phase.LOADING:  # noqa: ASYNC110 – the loader lives in another thread
            await asyncio.sleep(LOAD_POLL_S)
        try:
            engine = self._loader.value
        except EngineUnavailable as error:
            yield Failed(error.code, error.message, retryable=True)
            return
        async with contextlib.aclosing(stream(engine, request)) as events:
            async for event in events:
                yield event

    async def check_health(self) -> None:
        """Raises when the replica should be replaced: its model did not load, hangs, or fails again and again."""
        state = self._loader.state()
        if state.phase is Phase.FAILED:
            raise RuntimeError(f"The {self._name} engine did not load: {state.reason}")
        if state.phase is not Phase.READY:
            return
        if (busy := self._loader.value.busy_seconds()) > self._hang_timeout_s:
            raise RuntimeError(f"The {self._name} engine has been busy with one piece of work for {busy:.0f} s.")
        if (failures := self._loader.value.failures_in_a_row()) >= MAX_FAILURES:
            raise RuntimeError(f"The last {failures} calls of the {self._name} engine's model failed.")

    async def stop(self) -> None:
        self._loader.close()
        if self._loader.state().phase is Phase.READY:
            await asyncio.to_thread(self._loader.value.close)


class DraftShell(EngineShell["DraftEngine"]):
    """The embedded CPU engine."""

    def __init__(self, settings: Settings) -> None:
        configure_logging(settings.log_level, settings.service_name)
        super().__init__("draft", lambda: _load_draft(settings.engines), settings.engines, RaySink())


class FluxShell(EngineShell["FluxEngine"]):
    """One configured model, `name` being its row of `flux.spec`."""

    def __init__(self, settings: Settings, name: str, encoder: DeploymentHandle[Any]) -> None:
        configure_logging(settings.log_level, settings.service_name)
        sink = RaySink()
        encode = PromptEncoderHandle(encoder, asyncio.get_running_loop()).encode
        engine = get_spec(name).engine
        super().__init__(engine, lambda: _load_flux(settings, name, encode, sink), settings.engines, sink)


class HeadshotsShell(EngineShell["HeadshotEngine"]):
    """The engine of headshots."""

    def __init__(self, settings: Settings) -> None:
        configure_logging(settings.log_level, settings.service_name)
        sink = RaySink()
        super().__init__("headshots", lambda: _load_headshots(settings, sink), settings.engines, sink)


def _load_headshots(settings: Settings, sink: Sink) -> HeadshotEngine:
    from serve_app.headshots.engine import HeadshotEngine
    from serve_app.headshots.matting import load_matting
    from serve_app.headshots.matting_models import get_matting_model
    from serve_app.matting_weights import locate_matting

    headshots = settings.headshots
    model = get_matting_model(headshots.matting_model)
    path = locate_matting(settings, model.weights, token=os.environ.get("HF_TOKEN"))
    matting = load_matting(path, model, threads=headshots.threads, cuda=headshots.cuda)
    return HeadshotEngine(matting, headshots, settings.photos, sink)


def _load_draft(settings: EngineSettings) -> DraftEngine:
    from serve_app.engines.draft import DraftEngine, load_migan
    from serve_app.weights import locate

    path = locate("migan", settings.weights_dir.expanduser())
    return DraftEngine(load_migan(path, settings.draft_threads))


def _load_flux(settings: Settings, name: str, encode: Callable[[str], Future[TextEmbedding]], sink: Sink) -> FluxEngine:
    from serve_app.flux.assembly import load_engine

    return load_engine(settings.flux, name, encode, sink=sink, token=os.environ.get("HF_TOKEN"))
