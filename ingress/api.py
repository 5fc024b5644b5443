"""The HTTP application, without Ray, so that a test client can hold it."""

from __future__ import annotations

from fastapi import FastAPI

from ingress import problems
from ingress.limits import BodyLimit
from ingress.routes import probes, push, sessions
from ingress.services import Services
from serve_app import __version__


def create_app(services: Services) -> FastAPI:
    app = FastAPI(title="Pawfect", version=__version__, description="Removes leashes from pet photos.")
    app.state.services = services
    app.add_middleware(BodyLimit, limits={push.PATH: push.MAX_BODY_BYTES})
    problems.install(app)
    for routes in (push, sessions, probes):
        app.include_router(routes.router)
    return app
