"""The events of a stream of images as the OpenAPI document describes them; OpenAI's names, ours where it has none."""

from __future__ import annotations

from ingress.event_schemas import SNAPSHOT, Schema, describe_stream, inline_definitions
from ingress.image_orders import Kind
from ingress.image_problems import ERROR_SCHEMA
from ingress.image_schemas import ImageDetails
from ingress.problems import SCHEMA

UNTOLD = ("error", "result_url")
"""Of a snapshot: the last events say these, an error and the image."""

EXAMPLE = """event: {kind}.progress
data: {{"type":"{kind}.progress","index":0,"job_id":"job-1f0c","status":"processing","stage":"engine","step":3,\
"steps":28,"eta_s":21.5,"position":null}}

event: {kind}.completed
data: {{"type":"{kind}.completed","index":0,"created_at":1790000000,"background":"opaque","output_format":"png",\
"quality":"high","size":"auto","usage":{{"input_tokens":0,"input_tokens_details":{{"image_tokens":0,"text_tokens":0}},\
"output_tokens":0,"total_tokens":0}},"b64_json":"iVBORw0KGgo…"}}

"""


def describe_events(kind: Kind) -> Schema:
    """The `content` of the answer to a request for a stream: progress and, of each image, its end; or an error."""
    image = inline_definitions(ImageDetails.model_json_schema(mode="serialization"))["properties"]
    place = {"index": {"type": "integer", "description": "the image's place among those of the request"}}
    progress = {name: field for name, field in SNAPSHOT["properties"].items() if name not in UNTOLD}
    end = {
        "created_at": {"type": "integer", "description": "when the image was made, a Unix time"},
        **image,
        "b64_json": {"type": "string", "description": "the whole file, base64"},
    }
    error = {name: field for name, field in SCHEMA["properties"].items() if name not in ("type", "field")}
    fields = {
        f"{kind}.progress": {**place, **progress},
        f"{kind}.completed": {**place, **end},
        "error": {**error, "error": ERROR_SCHEMA},
    }
    return describe_stream(EXAMPLE.format(kind=kind), {name: _describe_data(name, fields[name]) for name in fields})


def _describe_data(name: str, fields: Schema) -> Schema:
    """All of the fields come."""
    properties = {"type": {"const": name}, **fields}
    return {"type": "object", "required": list(properties), "properties": properties}
