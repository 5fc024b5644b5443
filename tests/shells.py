"""An engine's Ray shell, held without Ray: something to ask of it, and a model that answers at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from serve_app.deployments.engines import EngineShell
from serve_app.engines.draft import DraftEngine
from serve_app.engines.protocol import Crop, FillRequest, Image, Mask

Shell = EngineShell[DraftEngine]
REQUEST = FillRequest(
    request_id="j",
    crops=(Crop(np.zeros((64, 64, 3), np.uint8), np.full((64, 64), 255, np.uint8)),),
    prompt="grass",
    steps=1,
    guidance=0.0,
    seed=7,
)


def invent(image: Image, mask: Mask) -> Image:
    return np.random.default_rng(0).integers(0, 255, image.shape, np.uint8)


async def collect(shell: EngineShell[Any]) -> list[Any]:
    return [event async for event in shell.run(REQUEST)]
