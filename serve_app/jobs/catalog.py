"""What this installation can be asked for: its models, and which of them does which operation at which quality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serve_app.engines.protocol import Task
from serve_app.errors import InvalidRequest
from serve_app.flux.spec import SPECS
from serve_app.jobs.model import Operation
from serve_app.settings import Settings
from serve_app.settings_sections import Quality

AUTO = "auto"
DRAFT = "draft"
HEADSHOTS = "headshots"
"""The engine of headshots."""
ENGINES = (DRAFT, HEADSHOTS, *(spec.engine for spec in SPECS.values()))
"""Every engine there may be, whether it runs here or not."""
MODEL_DEPLOYMENTS = {name: spec.deployment for name, spec in SPECS.items()}
"""FLUX models and what runs them in Serve."""
TASKS: Mapping[Operation, Task] = {
    Operation.INPAINT: Task.FILL,
    Operation.GENERATE: Task.TEXT_TO_IMAGE,
    Operation.TRANSFORM: Task.IMAGE_TO_IMAGE,
}


@dataclass(frozen=True, slots=True)
class Offer:
    """A model that runs here. `guidance` is what its authors recommend, None where the quality table says it."""

    name: str
    engine: str
    operations: frozenset[Operation]
    guidance: float | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """Which engine does a job, and with how much effort: the row of the quality table called `quality`."""

    engine: str
    quality: str
    row: Quality
    guidance: float


def list_offers(settings: Settings) -> list[Offer]:
    offers = [Offer(DRAFT, DRAFT, frozenset({Operation.INPAINT}))]
    for name in settings.flux.checkpoints:
        spec = SPECS[name]
        operations = frozenset(operation for operation, task in TASKS.items() if task in spec.tasks)
        # The quality table's guidance is meant for filling.
        guidance = None if Operation.INPAINT in operations else spec.guidance
        offers.append(Offer(name, spec.engine, operations, guidance))
    return offers


def choose(settings: Settings, operation: Operation, quality: str | None, model: str | None) -> Choice:
    """Raises InvalidRequest, with what would be accepted, for a quality or model that is unknown, not installed, or
    does not do this."""
    name = quality or AUTO
    if name != AUTO and name not in settings.qualities:
        known = ", ".join((AUTO, *settings.qualities))
        raise InvalidRequest(f"quality '{name}' is not known; accepted are {known}.", "quality")
    offer = _find_model(settings, operation, model) if model else _find_offer(settings, operation, name)
    row_name = _find_row(settings, offer, name)
    row = settings.qualities[row_name]
    return Choice(offer.engine, row_name, row, row.guidance if offer.guidance is None else offer.guidance)


def _find_model(settings: Settings, operation: Operation, model: str) -> Offer:
    offers = list_offers(settings)
    offer = next((offer for offer in offers if offer.name == model), None)
    if offer is None:
        offered = ", ".join(offer.name for offer in offers)
        why = f"is not installed; {_how_to_install(model)}" if model in SPECS else "is not known"
        raise InvalidRequest(f"model '{model}' {why}; offered here are {offered}.", "model")
    if operation not in offer.operations:
        raise InvalidRequest(f"model '{model}' does not do {operation}; {_name_able(settings, operation)}.", "model")
    return offer


def _find_offer(settings: Settings, operation: Operation, quality: str) -> Offer:
    """By the engine of the quality, if that does the operation; for the other operations any model that does."""
    able = [offer for offer in list_offers(settings) if operation in offer.operations]
    if operation is Operation.INPAINT:
        engine = settings.qualities[settings.quality if quality == AUTO else quality].engine
        able = [offer for offer in able if offer.engine == engine]
    if able:
        return able[0]
    if operation is Operation.INPAINT:
        raise InvalidRequest(f"quality '{quality}' needs FLUX; {_name_able(settings, operation)}.", "quality")
    raise InvalidRequest(f"{operation}: {_name_able(settings, operation)}.", "operation")


def _find_row(settings: Settings, offer: Offer, quality: str) -> str:
    kind = DRAFT if offer.engine == DRAFT else "flux"
    fitting = [name for name, row in settings.qualities.items() if row.engine == kind]
    if quality != AUTO:
        if quality not in fitting:
            raise InvalidRequest(
                f"quality '{quality}' is not one of the model {offer.name}; its qualities are {', '.join(fitting)}.",
                "quality",
            )
        return quality
    return settings.quality if settings.quality in fitting else fitting[-1]


def _name_able(settings: Settings, operation: Operation) -> str:
    able = [offer.name for offer in list_offers(settings) if operation in offer.operations]
    if able:
        return f"{', '.join(able)} does"
    known = [name for name, spec in SPECS.items() if TASKS[operation] in spec.tasks]
    return f"no model here does it; {_how_to_install(known[0])}"


def _how_to_install(model: str) -> str:
    return f"to have {model}, name its checkpoint in PAWFECT_FLUX__CHECKPOINTS"
