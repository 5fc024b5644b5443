"""`/files/{path}`: what the links lead to that this service signs itself. Elsewhere they lead to Cloud Storage, and
there is nothing here."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response

from ingress.files import send_file, take_file
from ingress.loopback import require_loopback
from ingress.problems import describe_problem
from ingress.services import Provided
from serve_app.errors import NotFound
from serve_app.photos.service_links import FILES_PATH, Grant, ServiceLinks

router = APIRouter(tags=["files"])

ROUTE = FILES_PATH + "{path:path}"

BINARY = {"schema": {"type": "string", "format": "binary"}}
REFUSALS: dict[int | str, dict[str, Any]] = {
    403: describe_problem("The link was not signed by this service, or was changed"),
    404: describe_problem("No such file, or files are not served here"),
    410: describe_problem("The link has expired"),
    503: describe_problem("The store does not answer; try again after Retry-After"),
}
SENDING: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file, of the type that the link names", "content": {"*/*": BINARY}},
    304: {"description": "The client has it: If-None-Match names its ETag"},
    **REFUSALS,
}
TAKING: dict[int | str, dict[str, Any]] = {
    201: {
        "description": "Stored",
        "headers": {"ETag": {"description": "of the stored file", "schema": {"type": "string"}}},
    },
    **REFUSALS,
    408: describe_problem("The body came too slowly"),
    409: describe_problem("There is a file already: a link for an upload works once"),
    413: describe_problem("The body has more bytes than the link is for"),
    415: describe_problem("The body is not of the type that the link is for, or is compressed"),
    422: describe_problem("The body broke off"),
}


def _describe_query(**fields: str) -> list[dict[str, Any]]:
    """The parameters of a link; who has one takes them as they are."""
    fields |= {"expires": "Unix time", "type": "media type of the file", "signature": "over all that goes before"}
    return [
        {"name": name, "in": "query", "required": True, "description": text, "schema": {"type": "string"}}
        for name, text in fields.items()
    ]


def read_link(request: Request, path: str, services: Provided) -> Grant:
    """Raises NotFound, Forbidden, Gone, before anything of the body is read."""
    links, settings = services.links, services.settings
    if not isinstance(links, ServiceLinks):
        raise NotFound("Files are not served here; links lead to Cloud Storage.")
    if settings.env == "local" and not settings.links.public_url:
        require_loopback(request, settings.allowed_origins)
    query: bytes = request.scope["query_string"]
    return links.verify(request.method, path, query.decode("latin-1"), services.clock.now())


Granted = Annotated[Grant, Depends(read_link)]
Known = Annotated[str | None, Header(alias="If-None-Match", description="the ETag of what the client has")]
DOWNLOAD = {"parameters": _describe_query(name="name to save the file under")}
UPLOAD = {
    "parameters": _describe_query(limit="bytes of the file, at most"),
    "requestBody": {"required": True, "content": {"*/*": BINARY}},
}


@router.get(ROUTE, response_class=Response, responses=SENDING, openapi_extra=DOWNLOAD)
async def show_file(grant: Granted, services: Provided, if_none_match: Known = None) -> Response:
    """The file of a signed link, which needs no other credential."""
    return await send_file(services, grant, if_none_match, has_body=True)


@router.head(ROUTE, response_class=Response, responses=SENDING, openapi_extra=DOWNLOAD)
async def probe_file(grant: Granted, services: Provided, if_none_match: Known = None) -> Response:
    """What GET would say of the file, without the file."""
    return await send_file(services, grant, if_none_match, has_body=False)


@router.put(ROUTE, status_code=201, response_class=Response, responses=TAKING, openapi_extra=UPLOAD)
async def store_file(grant: Granted, services: Provided, request: Request) -> Response:
    """Upload the file of a signed link, once: the body is the file, of the type that the link was made for."""
    generation = await take_file(services, grant, request)
    return Response(status_code=201, headers={"ETag": f'"{generation}"'})
