"""One tick as a call of the model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from serve_app.engines.crops import check_output
from serve_app.engines.protocol import Crop, Image
from serve_app.errors import EngineFailed, OutputInvalid
from serve_app.flux.admission import SampleSpec
from serve_app.flux.held import Held
from serve_app.flux.model import Model
from serve_app.flux.stepping import Tick, Work

log = logging.getLogger(__name__)


def call(model: Model[Any], tick: Tick, members: Sequence[Held]) -> list[EngineFailed | None]:
    """Do a tick; `members[i]` is the request of its i-th sample and keeps what came of it. What is wrong with each of
    them alone is returned; raises EngineFailed, and leaves all as they were, when the call as a whole failed."""
    try:
        match tick.work:
            case Work.ENCODE:
                for sample, held in _pairs(tick, members):
                    held.states[sample.index] = model.encode(sample.spec, *held.embeddings())
                return [None] * len(members)
            case Work.STEP:
                states = [held.states[sample.index] for sample, held in _pairs(tick, members)]
                return _keep(tick, members, model.step(states))
            case Work.DECODE:
                return [_decode(model, sample.spec, sample.index, held) for sample, held in _pairs(tick, members)]
    except EngineFailed:
        raise
    except Exception as error:
        log.exception("a call of the model failed")
        raise EngineFailed(f"the engine failed to {tick.work}: {type(error).__name__}: {error}") from error


def check_image(spec: SampleSpec, image: Image) -> None:
    """Raises OutputInvalid for an image of another size or type, and for one flat colour: of a fill, where it was to be
    painted; a flat image may come of a flat one."""
    if spec.image is not None and spec.mask is not None:
        try:
            check_output(Crop(spec.image, spec.mask), image)
        except EngineFailed as error:
            raise OutputInvalid(error.message) from error
        return
    wanted = (spec.height, spec.width, 3)
    if image.shape != wanted or image.dtype != np.uint8:
        raise OutputInvalid(f"the model gave {image.dtype} {image.shape} for uint8 {wanted}")
    if _is_flat(image) and not (spec.image is not None and _is_flat(spec.image)):
        raise OutputInvalid(f"the model gave an image of the one colour {image[0, 0].tolist()}")


def _is_flat(image: Image) -> bool:
    return bool((image == image[0, 0]).all())


def _pairs(tick: Tick, members: Sequence[Held]) -> Any:
    return zip(tick.samples, members, strict=True)


def _keep(tick: Tick, members: Sequence[Held], stepped: Sequence[Any]) -> list[EngineFailed | None]:
    if len(stepped) != len(members):
        raise EngineFailed(f"the model gave {len(stepped)} samples back for {len(members)}")
    problems: list[EngineFailed | None] = []
    for (sample, held), state in zip(_pairs(tick, members), stepped, strict=True):
        is_wrong = isinstance(state, EngineFailed)
        problems.append(state if is_wrong else None)
        if not is_wrong:
            held.states[sample.index] = state
    return problems


def _decode(model: Model[Any], spec: SampleSpec, index: int, held: Held) -> EngineFailed | None:
    try:
        image = model.decode(held.states[index])
        check_image(spec, image)
    except OutputInvalid as error:
        return error
    held.images[index] = image
    del held.states[index]
    return None
