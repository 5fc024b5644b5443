"""`/v1/images`: edits and generations as OpenAI's clients ask for them; the request waits for its images."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from ingress.callers import Limited
from ingress.image_answers import answer_images
from ingress.image_bodies import EDIT_BODY, GENERATION_BODY, read_edit, read_generation
from ingress.image_events import describe_events
from ingress.image_orders import ImageOrder, Kind, order_edits, order_generations
from ingress.image_problems import ImageRoute, describe_error
from ingress.image_schemas import EDITS_PATH, GENERATIONS_PATH, ImagesResponse
from ingress.services import Provided

router = APIRouter(tags=["images"], route_class=ImageRoute)

ERRORS: dict[int | str, dict[str, Any]] = {
    401: describe_error("No valid API key or Google identity token came as the bearer token"),
    403: describe_error("The caller may not do this"),
    408: describe_error("The body came too slowly"),
    409: describe_error("A job of the request was cancelled by another call"),
    410: describe_error("A result was removed while it was to be sent"),
    413: describe_error("The body, or an image, has more bytes than are accepted"),
    415: describe_error("The body is of another type, or compressed"),
    422: describe_error("The request is not acceptable, or its job failed; `detail` says why, `field` where"),
    429: describe_error("More than the caller may ask for at a time; Retry-After says when to try again"),
    503: describe_error("Not done in time and cancelled, or a store does not answer; try again after Retry-After"),
}


def describe_answers(kind: Kind) -> dict[int | str, dict[str, Any]]:
    images = {
        "model": ImagesResponse,
        "description": "The images; with `stream` progress, each image when it is done, and errors, as events",
        "content": describe_events(kind),
    }
    return {200: images, **ERRORS}


async def order_edit(caller: Limited, request: Request, services: Provided) -> ImageOrder:
    """The body, which FastAPI would read and parse before it asks any dependency who is calling."""
    wish, image, mask = await read_edit(request, services.settings.photos)
    return order_edits(caller, wish, image, mask, services.settings)


async def order_generation(caller: Limited, request: Request, services: Provided) -> ImageOrder:
    return order_generations(caller, await read_generation(request), services.settings)


@router.post(EDITS_PATH, responses=describe_answers("image_edit"), openapi_extra=EDIT_BODY, response_class=Response)
async def edit_image(
    request: Request, services: Provided, order: Annotated[ImageOrder, Depends(order_edit)]
) -> Response:
    """Repaint an image where its mask is transparent; or, where the mask has no transparency, white. Without a mask all
    of it is made anew.

    The answer comes with the images; the result of an edit with a mask has the image's own size. Whoever hangs up
    cancels what was asked for.
    """
    return await answer_images(request, services, order)


@router.post(
    GENERATIONS_PATH,
    responses=describe_answers("image_generation"),
    openapi_extra=GENERATION_BODY,
    response_class=Response,
)
async def generate_images(
    request: Request, services: Provided, order: Annotated[ImageOrder, Depends(order_generation)]
) -> Response:
    """Images of a text. The answer comes with the images; whoever hangs up cancels what was asked for."""
    return await answer_images(request, services, order)
