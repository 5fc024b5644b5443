"""The wire: what callers send and what they get. Names are the app's own (camelCase where its documents are)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve_app.jobs.model import ID_PATTERN, Job, Priority, Session
from serve_app.jobs.session_view import Document

ID_RULE = "1 to 128 letters, digits, '_' or '-'"

Identifier = Annotated[str, Field(pattern=ID_PATTERN)]

PRIORITIES = {"urgent": Priority.URGENT, "normal": Priority.NORMAL, "low": Priority.LOW}


class EditOptions(BaseModel):
    """Optional parameters of an edit; what is left out is as configured."""

    model_config = ConfigDict(extra="forbid")

    prompt: str | None = Field(None, min_length=1, max_length=2000)
    steps: int | None = Field(None, ge=1, le=200)
    guidance_scale: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    seed: int | None = Field(None, ge=0, lt=2**63)
    quality: str | None = Field(None, min_length=1, max_length=64, examples=["auto", "draft", "high"])
    priority: Literal["urgent", "normal", "low"] = "normal"


class SessionMessage(EditOptions):
    """The data of a Pub/Sub message. Fields of a newer publisher are let through."""

    model_config = ConfigDict(extra="ignore")

    userId: Identifier  # noqa: N815 – the app's own field names
    sessionId: Identifier  # noqa: N815


class PushMessage(BaseModel):
    model_config = ConfigDict(extra="ignore")

    data: str = ""
    attributes: dict[str, str] = Field(default_factory=dict)
    messageId: str = Field(min_length=1, max_length=1024)  # noqa: N815
    publishTime: str | None = None  # noqa: N815


class PushEnvelope(BaseModel):
    """Body of a push delivery, https://cloud.google.com/pubsub/docs/push."""

    model_config = ConfigDict(extra="ignore")

    message: PushMessage


class ProgressView(BaseModel):
    stage: str
    step: int
    steps: int
    eta_s: float | None


class JobView(BaseModel):
    jobId: str  # noqa: N815
    status: str
    quality: str
    priority: str
    attempts: int
    createdAt: float = Field(description="seconds of the Unix clock")  # noqa: N815
    finishedAt: float | None  # noqa: N815
    stageSeconds: dict[str, float]  # noqa: N815
    gpuSeconds: float  # noqa: N815
    cost: float = Field(description="US dollars")
    errorCode: str | None  # noqa: N815


class SessionView(BaseModel):
    """Our fields of a session's document, and the job they speak of."""

    userId: str  # noqa: N815
    sessionId: str  # noqa: N815
    processingStatus: str | None  # noqa: N815
    editedImagePath: str | None  # noqa: N815
    previewImagePath: str | None  # noqa: N815
    cost: float | None
    errorMessage: str | None  # noqa: N815
    progress: ProgressView | None
    job: JobView | None


def show_job(job: Job) -> JobView:
    return JobView(
        jobId=job.id,
        status=str(job.status),
        quality=job.parameters.quality,
        priority=job.priority.name.lower(),
        attempts=job.attempts,
        createdAt=job.created_at,
        finishedAt=job.finished_at,
        stageSeconds={stage: round(seconds, 4) for stage, seconds in job.stage_seconds.items()},
        gpuSeconds=job.gpu_seconds,
        cost=job.cost,
        errorCode=job.error_code,
    )


def show_session(session: Session, document: Document, job: Job | None) -> SessionView:
    ours: dict[str, Any] = {
        name: document.get(name)
        for name in ("processingStatus", "editedImagePath", "previewImagePath", "cost", "errorMessage", "progress")
    }
    return SessionView(userId=session.user_id, sessionId=session.session_id, job=show_job(job) if job else None, **ours)
