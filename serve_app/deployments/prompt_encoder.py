"""The text encoders on a replica of their own, away from the transformer's memory, and the handle to them."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from serve_app.deployments.replica_metrics import INTERVAL_S, ReplicaMetrics
from serve_app.engines.loading import Loader, LoadState, Phase
from serve_app.errors import EngineUnavailable, PawfectError
from serve_app.metrics import Sink
from serve_app.ray_metrics import RaySink
from serve_app.settings import Settings
from serve_app.telemetry import configure_logging

if TYPE_CHECKING:
    from serve_app.flux.text import TextEmbedding, TextEncoder

NAME = "prompt-encoder"
"""What its metrics call it, as engine."""


class PromptEncoderShell:
    """The encoders of the model that row `name` of `flux.spec` describes; all models of its family have the same."""

    def __init__(self, settings: Settings, name: str, sink: Sink | None = None) -> None:
        """To be called in an event loop."""
        configure_logging(settings.log_level, settings.service_name, settings.project_id)
        engines = settings.engines

        def load() -> TextEncoder:
            from serve_app.flux.assembly import load_encoder

            return load_encoder(settings.flux, name, token=os.environ.get("HF_TOKEN"))

        self._loader = Loader(
            load, name="prompt encoder", timeout_s=engines.load_timeout_s, backoff_s=engines.load_backoff_s
        )
        self._metrics = ReplicaMetrics(NAME, sink or RaySink(), gpu_share=0.0)  # `load_encoder` takes the CPU
        self._loader.start()
        self._counting = asyncio.create_task(self._count(), name=f"{NAME}-counting")

    async def encode(self, prompt: str) -> TextEmbedding | PawfectError:
        """Errors are returned: raised, they would come out of Ray as another class."""
        try:
            encoder = await asyncio.to_thread(self._loader.wait, float("inf"))
            return await asyncio.to_thread(encoder.encode, prompt)
        except PawfectError as error:
            return error

    async def load_state(self) -> LoadState:
        state = self._loader.state()
        self._metrics.record_load(state)
        return state

    async def check_health(self) -> None:
        """Raises when the replica should be replaced: its encoders did not load."""
        state = await self.load_state()
        if state.phase is Phase.FAILED:
            raise RuntimeError(f"The prompt encoder did not load: {state.reason}")

    async def stop(self) -> None:
        await self.load_state()
        self._metrics.give_up_load()
        self._loader.close()
        self._counting.cancel()
        await asyncio.gather(self._counting, return_exceptions=True)
        self._metrics.count_held()

    async def _count(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.load_state()
            self._metrics.count_held()


class PromptEncoderHandle:
    """`loop` is the one that calls of the deployment are made from; `encode` may be called from any thread."""

    def __init__(self, handle: DeploymentHandle[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._handle = handle
        self._loop = loop

    def encode(self, prompt: str) -> Future[TextEmbedding]:
        """The embedding to come, or EngineUnavailable, EngineFailed or EngineRejected."""
        return asyncio.run_coroutine_threadsafe(self._encode(prompt), self._loop)

    async def _encode(self, prompt: str) -> TextEmbedding:
        try:
            answer: TextEmbedding | PawfectError = await self._handle.encode.remote(prompt)
        except (RayError, RayServeException) as error:
            raise EngineUnavailable(f"The prompt encoder did not answer: {type(error).__name__}.") from error
        if isinstance(answer, PawfectError):
            raise answer
        return answer
