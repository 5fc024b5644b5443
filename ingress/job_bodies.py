"""The body of `POST /v1/jobs` as the OpenAPI document describes it; it is read by hand, after the caller is known."""

from __future__ import annotations

from typing import Any

from ingress.job_schemas import IMAGE_FIELDS, JobRequest, JobRequestJson

PHOTO = (
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAABAAQMAAACQp+OdAAAAA1BMVEVullpJlk6GAAAAD0lEQVR42mNgGAWjgHwAAAJAAAHgTR1E"
    "AAAAAElFTkSuQmCC"
)
MASK = (
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAABAAQAAAACCEkxzAAAAGUlEQVR42mNgGL7g/38GBgYmGG9gGcMVAADoVwIdTCJ3EgAAAABJRU5ErkJggg=="
)
"""64 × 64 pixels, so that the examples can be sent as they are."""

INPAINT = {
    "operation": "ImageInpaint",
    "init_image": f"data:image/png;base64,{PHOTO}",
    "mask_image": f"data:image/png;base64,{MASK}",
    "prompt": "green grass, no leash",
    "quality": "auto",
}
GENERATE = {
    "operation": "ImageGeneration",
    "prompt": "a beagle on a lawn, morning light",
    "width": 1024,
    "height": 768,
    "seed": 7,
    "output_format": "png",
}
TRANSFORM = {
    "operation": "ImageTransform",
    "init_image": PHOTO,
    "prompt": "the same dog in autumn",
    "strength": 0.6,
    "priority": "urgent",
    "deadline_s": 600,
}


def describe_fields(schema: dict[str, Any]) -> dict[str, Any]:
    """A model's fields as those of a form, which has no null: what is left out, or empty, is as configured."""
    fields: dict[str, Any] = {}
    for name, field in schema["properties"].items():
        plain = {key: value for key, value in field.items() if key not in ("anyOf", "default")}
        fields[name] = {**plain, **field.get("anyOf", [{}])[0]}
    return fields


def _describe_form() -> dict[str, Any]:
    schema = JobRequest.model_json_schema()
    files = {name: {"type": "string", "format": "binary"} for name in IMAGE_FIELDS}
    return {**schema, "title": "JobForm", "properties": {**describe_fields(schema), **files}}


REQUEST_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": JobRequestJson.model_json_schema(),
                "examples": {
                    "inpaint": {"summary": "repaint what is white in the mask", "value": INPAINT},
                    "generate": {"summary": "an image of a text", "value": GENERATE},
                    "transform": {"summary": "an image of an image and a text", "value": TRANSFORM},
                },
            },
            "multipart/form-data": {
                "schema": _describe_form(),
                "encoding": {name: {"contentType": "image/*"} for name in IMAGE_FIELDS},
            },
        },
    }
}
