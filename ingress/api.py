"""The HTTP application, without Ray, so that a test client can hold it."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.types import ASGIApp

from ingress import problems
from ingress.cross_origin import CrossOriginApi
from ingress.headshot_bodies import limit_photo
from ingress.headshot_schemas import ASYNC_PATH
from ingress.headshot_schemas import PATH as HEADSHOT_PATH
from ingress.image_bodies import limit_edit
from ingress.image_schemas import EDITS_PATH
from ingress.job_schemas import PATH as JOBS_PATH
from ingress.limits import BodyLimit
from ingress.request_spans import RequestSpans
from ingress.routes import events, files, headshots, images, jobs, models, probes, push, sessions
from ingress.services import Services
from ingress.uploads import limit_body
from serve_app import __version__
from serve_app.photos.service_links import FILES_PATH


class _TracedApi(CrossOriginApi):
    def build_middleware_stack(self) -> ASGIApp:
        services: Services = self.state.services
        return RequestSpans(super().build_middleware_stack(), services.tracing)


def create_app(services: Services) -> FastAPI:
    app = _TracedApi(services.settings, title="Pawfect", version=__version__, description="Edits of pet photos.")
    app.state.services = services
    photos = services.settings.photos
    limits = {
        push.PATH: push.MAX_BODY_BYTES,
        push.HEADSHOT_PATH: push.MAX_BODY_BYTES,
        JOBS_PATH: limit_body(photos),
        EDITS_PATH: limit_edit(photos),
        HEADSHOT_PATH: limit_photo(photos),
        ASYNC_PATH: limit_photo(photos),
        FILES_PATH: photos.max_bytes,
    }
    app.add_middleware(BodyLimit, limits=limits)
    problems.install(app)
    for routes in (push, sessions, jobs, events, images, headshots, models, files, probes):
        app.include_router(routes.router)
    return app
