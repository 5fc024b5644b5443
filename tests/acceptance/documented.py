"""Calls whose answers are held against the service's own OpenAPI document."""

from __future__ import annotations

from typing import Any

import schemathesis
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

PATIENCE_S = 120.0
"""A headshot may wait for another one, on a slow machine; by default ten seconds are too long."""
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]


class DocumentedService:
    """Raises, from every call, schemathesis' FailureGroup for an answer that is not as described."""

    def __init__(self, url: str) -> None:
        self._document = schemathesis.openapi.from_url(f"{url}/openapi.json")

    def call(self, operation: str, status: int, **parts: Any) -> Response:
        """`operation` is a method and the path as the document has it; `parts` are those of a schemathesis Case."""
        method, _, path = operation.partition(" ")
        if isinstance(parts.get("body"), dict):
            parts.setdefault("media_type", "application/json")
        case = self._document[path][method].Case(**parts)
        response = case.call(timeout=PATIENCE_S)
        assert response.status_code == status, response.text
        case.validate_response(response, checks=CHECKS)
        return response
