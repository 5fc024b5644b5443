"""Streams of server-sent events as the OpenAPI document describes them.

In OpenAPI 3.1 the schema of a stream says nothing that the specification defines; tools read it as one event, as 3.2
has it with `itemSchema` (https://spec.openapis.org/oas/v3.2.0.html#server-sent-events).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from ingress.event_stream import MEDIA_TYPE
from ingress.events import Snapshot

Schema = dict[str, Any]


def describe_stream(example: str, data: Mapping[str, Schema], fields: Mapping[str, Schema] | None = None) -> Schema:
    """The `content` of an answer. `data` has the schema of the JSON in `data` by the event's name; `fields` are those
    that an event has beside the two."""
    kinds = [
        {
            "title": name,
            "properties": {
                "event": {"const": name},
                "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": schema},
            },
        }
        for name, schema in data.items()
    ]
    event = {
        "title": "One event of the stream",
        "type": "object",
        "required": ["event", "data"],
        "properties": dict(fields or {}),
        "oneOf": kinds,
    }
    return {MEDIA_TYPE: {"schema": event, "example": example}}


def inline_definitions(schema: Schema) -> Schema:
    """A model's schema without `$defs`: a `#/$defs/` within the document would point at the document's own. Only for
    models that do not contain themselves."""
    definitions = schema.get("$defs", {})

    def inline(part: Any) -> Any:
        if isinstance(part, list):
            return [inline(item) for item in part]
        if not isinstance(part, dict):
            return part
        others = {name: inline(value) for name, value in part.items() if name not in ("$ref", "$defs")}
        return {**inline(definitions[part["$ref"].rpartition("/")[2]]), **others} if "$ref" in part else others

    inlined: Schema = inline(schema)
    return inlined


SNAPSHOT = inline_definitions(TypeAdapter(Snapshot).json_schema())
"""What an event says of its job."""
