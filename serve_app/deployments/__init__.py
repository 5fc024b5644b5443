"""The Ray shells: thin classes around plain objects. Heavy imports happen inside them, on their replicas."""

from __future__ import annotations

from ray import serve

from serve_app.deployments.editor import EditorShell
from serve_app.deployments.engines import DraftShell, FluxShell, HeadshotsShell
from serve_app.deployments.prompt_encoder import PromptEncoderShell

# Serve awaits the `__del__` of a replica it stops. Only these have one: Python itself would not await it.


class _DraftReplica(DraftShell):
    async def __del__(self) -> None:
        await self.stop()


class _HeadshotsReplica(HeadshotsShell):
    async def __del__(self) -> None:
        await self.stop()


class _FluxReplica(FluxShell):
    async def __del__(self) -> None:
        await self.stop()


class _PromptEncoderReplica(PromptEncoderShell):
    async def __del__(self) -> None:
        await self.stop()


class _EditorReplica(EditorShell):
    async def __del__(self) -> None:
        await self.stop()


Draft = serve.deployment(_DraftReplica, name="Draft")
Headshots = serve.deployment(_HeadshotsReplica, name="Headshots")
Flux = serve.deployment(_FluxReplica, name="Flux")
"""Deployed once per configured model, under the name its row of `flux.spec` gives it."""
PromptEncoder = serve.deployment(_PromptEncoderReplica, name="PromptEncoder")
Editor = serve.deployment(_EditorReplica, name="Editor")
