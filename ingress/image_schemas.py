"""The wire of the OpenAI-compatible routes: their fields and answers, as that API names them.

The reference (https://platform.openai.com/docs/api-reference/images) knows more than is done here. What its client may
send has a meaning, is ignored where a description says so, or is refused; nothing is dropped in silence.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ingress.job_schemas import OutputFormat, PriorityName

EDITS_PATH = "/v1/images/edits"
GENERATIONS_PATH = "/v1/images/generations"
MODELS_PATH = "/v1/models"

MAX_IMAGES = 4
"""Jobs of one request; as many as one Editor has places for in a row."""

FILE_NAMES = ("image", "image[]", "mask")
"""The client names a file `image`, and the only one of a list `image[]`."""

IGNORED = "accepted and ignored"


class ImageRequest(BaseModel):
    """What is asked for, without files. What is left out, or null, is as configured."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1, max_length=2000)
    model: str | None = Field(None, min_length=1, max_length=64, description="as listed by GET /v1/models")
    n: int | None = Field(None, ge=1, le=MAX_IMAGES, description="images; all of them come, or none")
    quality: str | None = Field(
        None,
        min_length=1,
        max_length=64,
        examples=["auto", "draft", "high"],
        description="auto or one of the configured qualities; standard is auto, and hd, xhigh, max are high",
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        None, description="url: the result_url of a job, for the same caller's key or token, until the job expires"
    )
    output_format: OutputFormat | None = Field(None, description="png where none is given")
    output_compression: int | None = Field(
        None, ge=0, le=100, description=f"{IGNORED}: files are written at the configured quality"
    )
    background: Literal["auto", "opaque"] | None = Field(None, description="results are opaque")
    stream: bool | None = Field(None, description="progress and images as server-sent events; not with url")
    partial_images: int | None = Field(None, ge=0, le=3, description=f"{IGNORED}: a stream has no partial images")
    complexity: Literal["low", "medium", "high"] | None = Field(None, description=IGNORED)
    user: str | None = Field(None, max_length=512, description=IGNORED)
    safety_identifier: str | None = Field(None, max_length=512, description=IGNORED)
    negative_prompt: str | None = Field(None, min_length=1, max_length=2000)
    true_cfg: float | None = Field(
        None, ge=0, le=100, allow_inf_nan=False, description="weight of negative_prompt; above 1 a step costs double"
    )
    steps: int | None = Field(None, ge=1, le=200)
    guidance_scale: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    seed: int | None = Field(None, ge=0, lt=2**63, description="of the first image; the next ones have the next seeds")
    priority: PriorityName | None = Field(None, description="normal where none is given")


class EditRequest(ImageRequest):
    size: str | None = Field(
        None,
        pattern=r"^(auto|[0-9]{1,5}x[0-9]{1,5})$",
        examples=["auto", "1024x768"],
        description="auto: as the image. With a mask any size is accepted and the image's own is kept: what is not "
        "edited stays as it is, pixel by pixel. Without a mask: WIDTHxHEIGHT, as for generations",
    )
    input_fidelity: Literal["high", "low"] | None = Field(None, description=IGNORED)
    strength: float | None = Field(
        None, gt=0, le=1, allow_inf_nan=False, description="without a mask: how much of the image is made anew"
    )


class GenerationRequest(ImageRequest):
    size: str | None = Field(
        None,
        pattern=r"^(auto|[0-9]{1,5}x[0-9]{1,5})$",
        examples=["auto", "1024x768"],
        description="auto is 1024x1024; WIDTHxHEIGHT: multiples of 16 from 64, at most 1048576 pixels together",
    )
    moderation: Literal["low", "auto"] | None = Field(None, description=IGNORED)
    style: Literal["vivid", "natural"] | None = Field(None, description=IGNORED)


class TokenDetails(BaseModel):
    image_tokens: int = 0
    text_tokens: int = 0


class Usage(BaseModel):
    """Nothing is counted in tokens here; a job's own record has its GPU seconds and cost."""

    input_tokens: int = 0
    input_tokens_details: TokenDetails = TokenDetails()
    output_tokens: int = 0
    total_tokens: int = 0


class ImageDetails(BaseModel):
    """`size` is WIDTHxHEIGHT, or auto where the image decided."""

    background: Literal["opaque"] = "opaque"
    output_format: OutputFormat
    quality: str
    size: str
    usage: Usage = Usage()


class ImageView(BaseModel):
    """One of the two."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: None = None


class ImagesResponse(ImageDetails):
    created: int
    data: list[ImageView]


class ModelView(BaseModel):
    """`operations` are those of `POST /v1/jobs`: ImageInpaint is an edit with a mask, ImageTransform one without."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(0, description="not known, always 0")
    owned_by: str = "pawfect"
    operations: list[str]


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelView]
