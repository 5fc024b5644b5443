"""Engines on replicas: loading, events, metrics and health are the same for all; what is loaded differs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ray.serve.handle import DeploymentHandle

from serve_app.deployments.prompt_encoder import PromptEncoderHandle
from serve_app.deployments.replica_metrics import INTERVAL_S, ReplicaMetrics, find_gpu_share
from serve_app.engines.loading import Loader, LoadState, Phase
from serve_app.engines.protocol import Engine, Event, Failed, Request
from serve_app.engines.trace import Trace
from serve_app.errors import ConfigurationError, EngineUnavailable, WeightsUnavailable
from serve_app.flux.checkpoint import Part, check_source
from serve_app.flux.spec import get_spec
from serve_app.metrics import Sink
from serve_app.ray_metrics import RaySink
from serve_app.settings import Settings
from serve_app.settings_sections import EngineSettings
from serve_app.telemetry import configure_logging
from serve_app.tracing import Tracing, open_tracing
from serve_app.tuning import tune_model

if TYPE_CHECKING:
    from serve_app.engines.draft import DraftEngine
    from serve_app.flux.engine import FluxEngine
    from serve_app.flux.text import TextEmbedding
    from serve_app.headshots.engine import HeadshotEngine

log = logging.getLogger(__name__)

LOAD_POLL_S = 0.1
START_AFTER_S = 0.5
"""A model of gigabytes is not loaded before Serve has had its say about which checkpoint it is to be."""
MAX_FAILURES = 5
"""Calls of a model that may fail in a row; an accelerator that was lost in an error never recovers in its process."""

AnyEngine = TypeVar("AnyEngine", bound=Engine)


class EngineShell(Generic[AnyEngine]):
    """An engine on a replica. It loads in a thread, so the replica answers while it loads."""

    def __init__(
        self,
        name: str,
        load: Callable[[], AnyEngine],
        settings: EngineSettings,
        sink: Sink,
        tracing: Tracing | None = None,
        *,
        gpu_share: float = 0.0,
        start_after_s: float = 0,
    ) -> None:
        """To be called in an event loop. `gpu_share` is the part of a GPU that the replica holds, 0 on a CPU."""
        self._name = name
        self._tracing = tracing or Tracing()
        self._settings_of_engines = settings
        self._metrics = ReplicaMetrics(name, sink, gpu_share)
        self._running = 0
        self._loader = self._make_loader(load)
        self._leaving: Loader[AnyEngine] | None = None
        if start_after_s:
            asyncio.get_running_loop().call_later(start_after_s, self._start, self._loader)
        else:
            self._loader.start()
        self._counting = asyncio.create_task(self._count(), name=f"{name}-counting")

    def _make_loader(self, load: Callable[[], AnyEngine]) -> Loader[AnyEngine]:
        limits = self._settings_of_engines
        return Loader(load, name=self._name, timeout_s=limits.load_timeout_s, backoff_s=limits.load_backoff_s)

    def _start(self, loader: Loader[AnyEngine]) -> None:
        if loader is self._loader and not loader.is_started:
            loader.start()

    async def reload(self, load: Callable[[], AnyEngine]) -> None:
        """Another model in place of the one that is here. What that one holds is finished first, because a GPU does not
        hold two; what comes meanwhile waits. Returns when the new one is ready. Raises EngineUnavailable if it does not
        load."""
        before, self._loader = self._loader, self._make_loader(load)
        self._leaving = before
        while before.is_started and (self._running or before.state().phase is Phase.LOADING):  # noqa: ASYNC110
            await asyncio.sleep(LOAD_POLL_S)
        await asyncio.to_thread(_close, before)
        self._leaving = None
        self._metrics.expect_load()
        self._loader.start()
        await asyncio.to_thread(self._loader.wait, float("inf"))

    async def load_state(self) -> LoadState:
        state = self._loader.state()
        self._metrics.record_load(state)
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
        self._running += 1
        try:
            async with contextlib.aclosing(stream(engine, request)) as events:
                async for event in events:
                    yield event
        finally:
            self._running -= 1

    async def check_health(self) -> None:
        """Raises when the replica should be replaced: its model did not load, hangs, or fails again and again."""
        state = await self.load_state()
        if state.phase is Phase.FAILED:
            raise RuntimeError(f"The {self._name} engine did not load: {state.reason}")
        loader = self._leaving or self._loader
        if loader.state().phase is not Phase.READY:
            return
        if (busy := loader.value.busy_seconds()) > self._settings_of_engines.hang_timeout_s:
            raise RuntimeError(f"The {self._name} engine has been busy with one piece of work for {busy:.0f} s.")
        if (failures := loader.value.failures_in_a_row()) >= MAX_FAILURES:
            raise RuntimeError(f"The last {failures} calls of the {self._name} engine's model failed.")

    async def stop(self) -> None:
        await self.load_state()
        self._metrics.give_up_load()
        await asyncio.to_thread(_close, self._loader)
        self._counting.cancel()
        await asyncio.gather(self._counting, return_exceptions=True)
        self._metrics.count_held()
        await asyncio.to_thread(self._tracing.close)

    async def _count(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.load_state()
            self._metrics.count_held()


def _close(loader: Loader[Any]) -> None:
    loader.close()
    if loader.state().phase is Phase.READY:
        loader.value.close()


class DraftShell(EngineShell["DraftEngine"]):
    """The embedded CPU engine."""

    def __init__(self, settings: Settings) -> None:
        tracing, sink, share = _observe(settings, "draft"), RaySink(), find_gpu_share()
        load = partial(_load_draft, settings.engines, tracing)
        super().__init__("draft", load, settings.engines, sink, tracing, gpu_share=share)


class FluxShell(EngineShell["FluxEngine"]):
    """One configured model, `name` being its row of `flux.spec`."""

    def __init__(self, settings: Settings, name: str, encoder: DeploymentHandle[Any]) -> None:
        self._settings = settings
        self._model = name
        self._encode = PromptEncoderHandle(encoder, asyncio.get_running_loop()).encode
        self._checkpoint = settings.flux.checkpoints.get(name)
        self._sink = sink = RaySink()
        tracing = _observe(settings, get_spec(name).engine)
        super().__init__(
            get_spec(name).engine,
            self._make_load(settings, tracing),
            settings.engines,
            sink,
            tracing,
            gpu_share=find_gpu_share(),
            start_after_s=START_AFTER_S,
        )

    async def reconfigure(self, user_config: Mapping[str, Any] | None) -> None:
        """Serve calls it at the start and when `user_config` changes; see `tuning.ModelTuning`.

        A replica that runs keeps its model when the change cannot be meant: raised, it would have Serve stop one
        replica after the other. One that starts does not know that model, and raises ConfigurationError. Raises
        EngineUnavailable when a new checkpoint that is there does not load."""
        is_starting = not self._loader.is_started
        try:
            tuned = tune_model(self._settings, self._model, user_config)
            checkpoint = tuned.flux.checkpoints.get(self._model)
            if checkpoint is None or checkpoint == self._checkpoint:
                return
            if not is_starting:
                with contextlib.suppress(WeightsUnavailable):  # worth a retry, as loading has it
                    check_source(checkpoint, Part.IMAGE)
        except ConfigurationError as error:
            if is_starting:
                raise
            log.exception("nothing is changed: %s", error.message)
            return
        log.info("another checkpoint is loaded", extra={"engine": self._name})
        self._checkpoint = checkpoint
        await self.reload(self._make_load(tuned, self._tracing))

    def _make_load(self, settings: Settings, tracing: Tracing) -> Callable[[], FluxEngine]:
        return partial(_load_flux, settings, self._model, self._encode, self._sink, tracing)


class HeadshotsShell(EngineShell["HeadshotEngine"]):
    """The engine of headshots."""

    def __init__(self, settings: Settings) -> None:
        tracing, sink, share = _observe(settings, "headshots"), RaySink(), find_gpu_share()
        load = partial(_load_headshots, settings, sink, tracing)
        super().__init__("headshots", load, settings.engines, sink, tracing, gpu_share=share)


def _observe(settings: Settings, role: str) -> Tracing:
    """The logs and traces of this process."""
    configure_logging(settings.log_level, settings.service_name, settings.project_id)
    return open_tracing(settings, role)


def _load_headshots(settings: Settings, sink: Sink, trace: Trace) -> HeadshotEngine:
    from serve_app.headshots.engine import HeadshotEngine
    from serve_app.headshots.matting import load_matting
    from serve_app.headshots.matting_models import get_matting_model
    from serve_app.matting_weights import locate_matting

    headshots = settings.headshots
    model = get_matting_model(headshots.matting_model)
    path = locate_matting(settings, model.weights, token=os.environ.get("HF_TOKEN"))
    matting = load_matting(path, model, threads=headshots.threads, cuda=headshots.cuda)
    return HeadshotEngine(matting, headshots, settings.photos, sink, trace=trace)


def _load_draft(settings: EngineSettings, trace: Trace) -> DraftEngine:
    from serve_app.engines.draft import DraftEngine, load_migan
    from serve_app.weights import locate

    path = locate("migan", settings.weights_dir.expanduser())
    return DraftEngine(load_migan(path, settings.draft_threads), trace=trace)


def _load_flux(
    settings: Settings, name: str, encode: Callable[[str], Future[TextEmbedding]], sink: Sink, trace: Trace
) -> FluxEngine:
    from serve_app.flux.assembly import load_engine

    return load_engine(settings.flux, name, encode, sink=sink, token=os.environ.get("HF_TOKEN"), trace=trace)
