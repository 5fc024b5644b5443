"""`/v1/models`: what can be named as `model`, as OpenAI's clients read it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path

from ingress.callers import Caller
from ingress.image_problems import ImageRoute, describe_error
from ingress.image_schemas import MODELS_PATH, ModelList, ModelView
from ingress.services import Provided
from serve_app.errors import NotFound
from serve_app.jobs.catalog import list_offers
from serve_app.settings import Settings

router = APIRouter(prefix=MODELS_PATH, tags=["models"], route_class=ImageRoute)

REFUSALS: dict[int | str, dict[str, Any]] = {
    401: describe_error("No valid API key or Google identity token came as the bearer token"),
    403: describe_error("The caller may not do this"),
    429: describe_error("More requests than the caller may send; Retry-After says when to try again"),
}


@router.get("", responses=REFUSALS)
async def list_models(_caller: Caller, services: Provided) -> ModelList:
    """The models that are installed here."""
    return ModelList(data=_show_models(services.settings))


@router.get(
    "/{model}",
    responses={**REFUSALS, 404: describe_error("No such model here"), 422: describe_error("The name is too long")},
)
async def show_model(
    _caller: Caller, services: Provided, model: Annotated[str, Path(max_length=64, examples=["draft"])]
) -> ModelView:
    """One of them."""
    models = _show_models(services.settings)
    found = next((view for view in models if view.id == model), None)
    if found is None:
        raise NotFound(f"There is no model {model} here; offered are {', '.join(view.id for view in models)}.")
    return found


def _show_models(settings: Settings) -> list[ModelView]:
    return [
        ModelView(id=offer.name, operations=sorted(str(operation) for operation in offer.operations))
        for offer in list_offers(settings)
    ]
