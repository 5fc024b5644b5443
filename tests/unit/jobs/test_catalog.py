"""What an installation offers, and what it says to those who ask for something else."""

from __future__ import annotations

import pytest

from serve_app.errors import InvalidRequest
from serve_app.jobs.catalog import choose, list_offers
from serve_app.jobs.model import Operation
from serve_app.settings import Settings
from serve_app.settings_sections import FluxSettings

INPAINT, GENERATE, TRANSFORM = Operation.INPAINT, Operation.GENERATE, Operation.TRANSFORM


def make_settings(*models: str, quality: str = "draft") -> Settings:
    flux = FluxSettings(checkpoints=dict.fromkeys(models, "somewhere"))
    return Settings(flux=flux, quality=quality)


FULL = make_settings("flux-fill-dev", "flux-dev")


def test_offers_are_the_draft_and_what_has_a_checkpoint() -> None:
    assert [offer.name for offer in list_offers(make_settings())] == ["draft"]
    offers = {offer.name: (offer.engine, set(offer.operations)) for offer in list_offers(FULL)}
    assert offers == {
        "draft": ("draft", {INPAINT}),
        "flux-fill-dev": ("flux", {INPAINT}),
        "flux-dev": ("flux-base", {GENERATE, TRANSFORM}),
    }


@pytest.mark.parametrize(
    ("settings", "operation", "quality", "model", "engine", "row", "guidance"),
    [
        (make_settings(), INPAINT, None, None, "draft", "draft", 0),
        (FULL, INPAINT, "auto", None, "draft", "draft", 0),
        (FULL, INPAINT, "high", None, "flux", "high", 30),
        (FULL, INPAINT, None, "flux-fill-dev", "flux", "high", 30),
        (make_settings("flux-fill-dev", quality="low"), INPAINT, None, None, "flux", "low", 30),
        (FULL, GENERATE, None, None, "flux-base", "high", 3.5),
        (FULL, TRANSFORM, "low", "flux-dev", "flux-base", "low", 3.5),
    ],
)
def test_the_model_follows_from_what_is_asked(
    settings: Settings,
    operation: Operation,
    quality: str | None,
    model: str | None,
    engine: str,
    row: str,
    guidance: float,
) -> None:
    choice = choose(settings, operation, quality, model)
    assert (choice.engine, choice.quality, choice.guidance) == (engine, row, guidance)
    assert choice.row == settings.qualities[row]


@pytest.mark.parametrize(
    ("settings", "operation", "quality", "model", "field", "words"),
    [
        (FULL, INPAINT, "best", None, "quality", "accepted are auto, draft, low, medium, high"),
        (FULL, INPAINT, None, "dall-e", "model", "is not known; offered here are draft, flux-fill-dev, flux-dev"),
        (make_settings(), INPAINT, None, "flux-fill-dev", "model", "name its checkpoint in PAWFECT_FLUX__CHECKPOINTS"),
        (FULL, GENERATE, None, "flux-fill-dev", "model", "does not do ImageGeneration; flux-dev does"),
        (make_settings(), INPAINT, "high", None, "quality", "needs FLUX"),
        (make_settings(), GENERATE, None, None, "operation", "to have flux-dev, name its checkpoint"),
        (FULL, INPAINT, "draft", "flux-fill-dev", "quality", "its qualities are low, medium, high"),
        (FULL, GENERATE, "draft", None, "quality", "not one of the model flux-dev"),
    ],
)
def test_what_cannot_be_had_is_said_with_what_can(
    settings: Settings, operation: Operation, quality: str | None, model: str | None, field: str, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words) as raised:
        choose(settings, operation, quality, model)
    assert raised.value.field == field
