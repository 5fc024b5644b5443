"""What can be changed in a running service without a restart: `user_config` in serve_config.yaml.

Serve hands it to every replica's `reconfigure`, at its start and whenever it changes. It lies over the settings; what
is taken out of it again is as the settings say.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from serve_app.errors import ConfigurationError
from serve_app.settings import Settings
from serve_app.settings_sections import Quality, Section

log = logging.getLogger(__name__)

AnySection = TypeVar("AnySection", bound=Section)


class Tuning(Section):
    """Of Ingress and Editor. `qualities` are rows that replace their namesakes or join them."""

    quality: str | None = None
    prompt: str | None = Field(None, min_length=1, max_length=2000)
    qualities: dict[str, Quality] = Field({})


class ModelTuning(Section):
    """Of FluxFill and FluxBase. `checkpoint` is a folder, or hub, as in PAWFECT_FLUX__CHECKPOINTS."""

    checkpoint: str | None = None


def tune(settings: Settings, given: Mapping[str, Any] | None) -> Settings:
    """The settings with `user_config` over them. Raises ConfigurationError."""
    tuning = _validate(Tuning, given)
    qualities = {**settings.qualities, **tuning.qualities}
    quality = tuning.quality or settings.quality
    if "auto" in qualities:
        raise ConfigurationError("user_config: a row cannot be called 'auto', which stands for the configured quality.")
    if quality not in qualities:
        raise ConfigurationError(
            f"user_config: quality '{quality}' is not a row of qualities ({', '.join(qualities)})."
        )
    changes = {"qualities": qualities, "quality": quality, "prompt": tuning.prompt or settings.prompt}
    return settings.model_copy(update=changes)


def try_to_tune(settings: Settings, given: Mapping[str, Any] | None) -> Settings | None:
    """As `tune`, on a replica; None where that raises, which is logged: raised further, it would have Serve stop one
    replica after the other."""
    try:
        return tune(settings, given)
    except ConfigurationError as error:
        log.exception("nothing is changed: %s", error.message)
        return None


def tune_model(settings: Settings, name: str, given: Mapping[str, Any] | None) -> Settings:
    """The settings with another checkpoint of the model `name`. Raises ConfigurationError."""
    checkpoint = _validate(ModelTuning, given).checkpoint
    if checkpoint is None or name not in settings.flux.checkpoints:
        return settings
    flux = settings.flux.model_copy(update={"checkpoints": {**settings.flux.checkpoints, name: checkpoint}})
    return settings.model_copy(update={"flux": flux})


def _validate(kind: type[AnySection], given: Mapping[str, Any] | None) -> AnySection:
    try:
        return kind.model_validate(given or {})
    except ValidationError as error:
        said = " ".join(
            f"user_config {'.'.join(str(part) for part in each['loc'])}: {each['msg']}." for each in error.errors()
        )
        raise ConfigurationError(said) from None
