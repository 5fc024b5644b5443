"""The wire of headshots. Names are those of the service that made them before."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve_app.jobs import headshot_view
from serve_app.jobs.headshot_links import ResultLinks
from serve_app.jobs.model import HEADSHOT_ID_PATTERN, Job, Status

PATH = "/headshot"
ASYNC_PATH = "/headshot-async"
StatusName = Literal["queued", "processing", "done", "failed"]
JobId = Annotated[str, Field(pattern=HEADSHOT_ID_PATTERN, examples=["headshot-0123456789abcdef"])]


class Quality(BaseModel):
    """What was found about the photo. `reasons` are stable codes, such as image_blurry; `metrics` numbers."""

    model_config = ConfigDict(populate_by_name=True)

    passed: bool = Field(alias="pass")
    metrics: dict[str, float | int | bool | None]
    reasons: list[str]


class Headshot(BaseModel):
    """The links can be used for a while; ask for the job again for new ones."""

    job_id: str
    preview_url: str
    print_url: str | None = Field(description="null for a caller without a token")
    quality: Quality


class Accepted(BaseModel):
    job_id: str
    status: StatusName


class HeadshotStatus(Accepted):
    """What there is, and nothing for what there is not; links once it is done."""

    preview_url: str | None = None
    print_url: str | None = None
    quality: Quality | None = None
    error: str | None = None
    error_code: str | None = None


class UploadRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    content_type: Literal["image/jpeg", "image/png", "image/webp", "image/heic", "image/heif"]
    """Those of `headshot_names.EXTENSIONS`; a test says so."""
    file_name: str = Field("photo", min_length=1, max_length=255)


class UploadTicket(BaseModel):
    """Send the photo with `method` to `upload_url` with exactly these `headers`, once; then ask for its headshot with
    `{job_id, orig_key}`, or publish `{job_id, orig_bucket, orig_key}`."""

    job_id: str
    upload_url: str
    method: str
    headers: dict[str, str]
    orig_bucket: str
    orig_key: str
    expires_at: float = Field(description="seconds of the Unix clock")


class UploadedPhoto(BaseModel):
    """A photo that was sent to an upload link."""

    model_config = ConfigDict(extra="forbid")

    job_id: JobId
    orig_key: str = Field(min_length=1, max_length=900)


class HeadshotMessage(BaseModel):
    """The data of a Pub/Sub message. Fields of a newer publisher are let through."""

    model_config = ConfigDict(extra="ignore")

    job_id: JobId
    orig_bucket: str = Field(min_length=1, max_length=255)
    orig_key: str = Field(min_length=1, max_length=900)


def show_accepted(job: Job) -> Accepted:
    return Accepted(job_id=job.id, status=headshot_view.SHOWN[job.status])


def show_headshot(job: Job, links: ResultLinks) -> Headshot:
    assert job.headshot is not None
    return Headshot(
        job_id=job.id,
        preview_url=links.preview.url,
        print_url=links.print.url if links.print else None,
        quality=Quality.model_validate(job.headshot.quality),
    )


def show_status(job: Job, links: ResultLinks | None) -> HeadshotStatus:
    has_failed = job.status in (Status.FAILED, Status.CANCELLED)
    values: dict[str, Any] = {}
    if links is not None:
        values = {"preview_url": links.preview.url, "print_url": links.print.url if links.print else None}
    return HeadshotStatus(
        job_id=job.id,
        status=headshot_view.SHOWN[job.status],
        quality=Quality.model_validate(job.headshot.quality) if job.headshot else None,
        error=job.error if has_failed else None,
        error_code=job.error_code if has_failed else None,
        **values,
    )
