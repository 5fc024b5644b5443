"""Pages of other sites that may call this service from a browser: https://fetch.spec.whatwg.org/#http-cors-protocol.

Origins are compared as a whole. Cookies and the like are never asked for: a page brings its token itself, in a header.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from serve_app.settings import Settings

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
HEADERS = ("Accept", "Authorization", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID")
"""What a page may send."""
EXPOSED = ("Content-Disposition", "ETag", "Location", "Retry-After")
"""What a page may read of an answer, beside what every page may."""
MAX_AGE_S = 7200
"""So long a browser need not ask again; Chromium keeps an answer for no longer."""


class CrossOriginApi(FastAPI):
    """FastAPI for the `allowed_origins`; where there are none, as it is."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        super().__init__(**options)
        self._settings = settings

    def build_middleware_stack(self) -> ASGIApp:
        """Around everything: what is added as a middleware would leave out the answer to a defect, and the page would
        be told of a network error instead."""
        stack = super().build_middleware_stack()
        if not self._settings.allowed_origins:
            return stack
        return CORSMiddleware(
            stack,
            allow_origins=self._settings.allowed_origins,
            allow_methods=METHODS,
            allow_headers=HEADERS,
            allow_credentials=False,
            allow_private_network=self._settings.env == "local",  # a public page that calls the loopback address
            expose_headers=EXPOSED,
            max_age=MAX_AGE_S,
        )
