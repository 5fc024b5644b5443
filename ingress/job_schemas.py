"""The wire of jobs over HTTP: what callers ask for, and a job as they see it. Names are snake_case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ingress.schemas import PRIORITIES, ProgressView
from serve_app.errors import InvalidRequest
from serve_app.jobs.catalog import list_offers
from serve_app.jobs.model import Job, Operation, Status
from serve_app.jobs.submission import LEAST_PX, MOST_PIXELS, SIDE_PX, JobOrder
from serve_app.settings import Settings

PATH = "/v1/jobs"
MAX_DEADLINE_S = 7 * 86400
"""A week: nobody waits longer, and results outlive the deadline by the configured time."""
IMAGE_FIELDS = ("init_image", "mask_image")

OperationName = Literal["ImageInpaint", "ImageGeneration", "ImageTransform"]
AnyOperation = Literal["ImageInpaint", "ImageGeneration", "ImageTransform", "PetHeadshot"]
"""PetHeadshot is asked for with POST /headshot."""
StatusName = Literal["queued", "processing", "completed", "failed", "cancelled"]
PriorityName = Literal["urgent", "normal", "low"]
OutputFormat = Literal["jpeg", "png", "webp"]
Side = Annotated[int, Field(ge=LEAST_PX, le=MOST_PIXELS // LEAST_PX, multiple_of=SIDE_PX)]


class JobRequest(BaseModel):
    """What is asked for, without the images. What is left out, or null, is as configured."""

    model_config = ConfigDict(extra="forbid")

    operation: OperationName = Field(description="ImageInpaint repaints what is white in the mask")
    model: str | None = Field(None, min_length=1, max_length=64, description="as listed by GET /v1/models")
    prompt: str | None = Field(None, min_length=1, max_length=2000)
    negative_prompt: str | None = Field(None, min_length=1, max_length=2000)
    true_cfg: float = Field(
        1.0, ge=0, le=100, allow_inf_nan=False, description="weight of negative_prompt; above 1 a step costs double"
    )
    steps: int | None = Field(None, ge=1, le=200)
    guidance_scale: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    strength: float | None = Field(
        None, gt=0, le=1, allow_inf_nan=False, description="of ImageTransform: how much of the image is made anew"
    )
    seed: int | None = Field(None, ge=0, lt=2**63, description="the same seed and request give the same image")
    width: Side | None = Field(None, description="pixels; not of ImageInpaint, which keeps the image's size")
    height: Side | None = Field(None, description="pixels; goes with width")
    quality: str | None = Field(None, min_length=1, max_length=64, examples=["auto", "draft", "high"])
    priority: PriorityName = "normal"
    deadline_s: float | None = Field(
        None, gt=0, le=MAX_DEADLINE_S, allow_inf_nan=False, description="seconds from now; not done by then is failed"
    )
    output_format: OutputFormat = "jpeg"


class JobRequestJson(JobRequest):
    """The same with images as text."""

    init_image: str | None = Field(None, description="base64 (RFC 4648, section 4) of a file, or a data: URL of it")
    mask_image: str | None = Field(
        None, description="as init_image; of the image's proportions, white where to repaint"
    )


class JobProgress(ProgressView):
    """`position` requests go before this one in its engine; `decoding` says that the steps are done."""

    position: int | None
    decoding: bool


class ErrorView(BaseModel):
    code: str
    message: str


class JobStatus(BaseModel):
    """A job as it is. Times are seconds of the Unix clock; URLs are relative to the service's address."""

    job_id: str
    operation: AnyOperation
    status: StatusName
    cancel_requested: bool = Field(description="true while a running job is being stopped")
    model: str
    quality: str
    priority: PriorityName
    created_at: float
    deadline_at: float
    finished_at: float | None
    expires_at: float | None = Field(description="the job is forgotten then, with its images; those of a session stay")
    progress: JobProgress | None
    error: ErrorView | None = Field(description="why it is failed or cancelled")
    attempts: int
    seed: int = Field(description="the one that is used, also where none was given")
    steps: int
    guidance_scale: float
    strength: float
    width: int | None
    height: int | None
    output_format: OutputFormat
    stage_seconds: dict[str, float]
    gpu_seconds: float
    cost: float = Field(description="US dollars")
    status_url: str
    sse_url: str
    result_url: str


class JobPage(BaseModel):
    """Newest first. A page may be shorter than its limit; the end is where `next_cursor` is null."""

    jobs: list[JobStatus]
    next_cursor: str | None


class JobResult(BaseModel):
    """A result as JSON."""

    job_id: str
    content_type: Literal["image/jpeg", "image/png", "image/webp"]
    image: str = Field(description="base64 of the file")


def make_order(owner: str, key: str | None, wish: JobRequest, images: Mapping[str, bytes]) -> JobOrder:
    """Raises InvalidRequest for a field that would have no effect."""
    operation = Operation(wish.operation)
    if wish.strength is not None and operation is not Operation.TRANSFORM:
        raise InvalidRequest(f"{operation} takes no strength; {Operation.TRANSFORM} does.", "strength")
    values: dict[str, Any] = wish.model_dump(include=set(JobRequest.model_fields))
    values |= {**images, "operation": operation, "priority": PRIORITIES[wish.priority]}
    return JobOrder(owner=owner, key=key, **values)


def show_status(job: Job, settings: Settings) -> JobStatus:
    url, parameters = f"{PATH}/{job.id}", job.parameters
    has_failed = job.status in (Status.FAILED, Status.CANCELLED)
    values: dict[str, Any] = {
        name: getattr(parameters, name)
        for name in ("quality", "steps", "guidance_scale", "strength", "width", "height", "output_format")
    }
    return JobStatus(
        job_id=job.id,
        operation=job.operation.value,
        status=job.status.value,
        cancel_requested=job.cancel_requested and not job.status.is_final,
        model=name_model(job, settings),
        priority=job.priority.name.lower(),
        created_at=job.created_at,
        deadline_at=job.deadline_at,
        finished_at=job.finished_at,
        expires_at=job.expires_at,
        progress=JobProgress.model_validate(job.progress, from_attributes=True) if job.progress else None,
        error=ErrorView(code=job.error_code or "failed", message=job.error or "") if has_failed else None,
        attempts=job.attempts,
        seed=job.seed,
        stage_seconds={stage: round(seconds, 4) for stage, seconds in job.stage_seconds.items()},
        gpu_seconds=job.gpu_seconds,
        cost=job.cost,
        status_url=url,
        sse_url=f"{url}/events",
        result_url=f"{url}/result",
        **values,
    )


def name_model(job: Job, settings: Settings) -> str:
    """As it is offered; of a model that is not offered any more, its engine's name."""
    row = settings.qualities.get(job.parameters.quality)
    engine = job.engine or (row.engine if row is not None else "")
    return next((offer.name for offer in list_offers(settings) if offer.engine == engine), engine)
