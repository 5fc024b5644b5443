"""The sections of the settings: one class per part of the service. `serve_app.settings` puts them into one tree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _check_user_pattern(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_*-]{1,128}", text):
        raise ValueError("must be 1 to 128 letters, digits, '_', '-' or '*', which stands for any characters")
    return text


UserPattern = Annotated[str, AfterValidator(_check_user_pattern)]


class Section(BaseModel):
    """A field's `also`, in its `json_schema_extra`, is a variable of the replaced services that sets it, too."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Quality(Section):
    """One row of the quality table: which engine does the work and how hard it tries."""

    engine: Literal["draft", "flux"]
    steps: int = Field(ge=1, le=200, description="denoising steps; a one-shot engine ignores it")
    guidance: float = Field(ge=0, le=100, description="guidance scale; a one-shot engine ignores it")
    detail: float = Field(gt=0, le=1, description="model pixels per photo pixel, at most")
    max_megapixels: float = Field(gt=0, le=1, description="size of a crop, in units of 2^20 model pixels, at most")


DEFAULT_QUALITIES: dict[str, Quality] = {
    "draft": Quality(engine="draft", steps=1, guidance=0, detail=1.0, max_megapixels=1.0),
    "low": Quality(engine="flux", steps=12, guidance=30, detail=0.5, max_megapixels=0.25),
    "medium": Quality(engine="flux", steps=20, guidance=30, detail=1.0, max_megapixels=0.5625),
    "high": Quality(engine="flux", steps=28, guidance=30, detail=1.0, max_megapixels=1.0),
}


class EditingSettings(Section):
    mask_dilation: float = Field(
        0.003, ge=0, le=0.1, description="how far the mask is grown, as a share of the photo's long edge"
    )
    context_px: int = Field(64, ge=16, le=256, description="model pixels of context kept around the mask")


class PhotoSettings(Section):
    max_bytes: int = Field(
        50 * 2**20, ge=1024, description="largest original or mask, in bytes, checked before reading"
    )
    max_pixels: int = Field(
        64_000_000, ge=1_000_000, description="largest photo, in pixels, checked before decoding (decompression bombs)"
    )
    jpeg_quality: int = Field(95, ge=1, le=100, description="JPEG quality of edited.jpg")
    preview_long_edge: int = Field(512, ge=16, le=4096, description="long edge of preview.jpg, in pixels")
    preview_quality: int = Field(85, ge=1, le=100, description="JPEG quality of preview.jpg")


class JobSettings(Section):
    lease_s: float = Field(
        30, gt=0, description="a worker that stays silent for so long loses its job to another, in seconds"
    )
    deadline_s: float = Field(3600, gt=0, description="a job not finished so long after it came is failed, in seconds")
    max_crashes: int = Field(3, ge=1, description="runs that may end in a crash before the job is failed")
    max_transient: int = Field(5, ge=1, description="runs that may fail transiently before the job is failed")
    retry_backoff_s: float = Field(
        2, ge=0, description="pause before a transiently failed job runs again; doubles, in seconds"
    )
    claim_poll_s: float = Field(0.5, gt=0, description="how often an idle Editor looks for work, in seconds")
    slots: int = Field(
        6, ge=1, le=256, description="jobs one Editor holds at a time; as many as its engines have places"
    )
    urgent_slots: int = Field(2, ge=0, description="of those, places that only urgent jobs may take")
    drain_s: float = Field(
        235,
        ge=0,
        description="an Editor that is being stopped lets jobs that an engine has begun run on for so long; the others "
        "it gives back at once, and these then; below graceful_shutdown_timeout_s of Editor in serve_config.yaml, in "
        "seconds",
    )
    stage_timeout_s: float = Field(
        120, gt=0, description="one stage of a run at most, and an engine's silence once it has begun, in seconds"
    )
    push_wait_s: float = Field(
        570, gt=0, le=600, description="a push still waiting is answered 503 then; below the ack deadline of 600 s"
    )
    result_ttl_s: float = Field(
        7 * 86400,
        gt=0,
        le=10 * 365 * 86400,
        description="a job asked for over HTTP is forgotten with its images so long after its deadline, in seconds",
    )
    record_ttl_s: float = Field(
        30 * 86400,
        ge=7 * 86400,
        le=10 * 365 * 86400,
        description="a session's job is forgotten so long after its deadline, its photos stay, in seconds; Pub/Sub may "
        "send a message again for 7 days, and one that is forgotten would run again",
    )
    progress_interval_s: float = Field(1, ge=0, description="progress is written at most this often, in seconds")

    @model_validator(mode="after")
    def _leave_a_slot_for_everyone(self) -> Self:
        if self.urgent_slots >= self.slots:
            raise ValueError(f"urgent_slots ({self.urgent_slots}) must be smaller than slots ({self.slots})")
        return self


class EngineSettings(Section):
    load_timeout_s: float = Field(
        600, gt=0, description="a model not loaded by then is failed and its replica replaced, in seconds"
    )
    load_backoff_s: float = Field(
        1, gt=0, description="pause after a transient load error; doubles up to 30, in seconds"
    )
    hang_timeout_s: float = Field(
        120, gt=0, description="an engine busy with one step for so long is replaced, in seconds"
    )
    gpu_hour_usd: float = Field(0.71, ge=0, description="price of one GPU hour, for the cost of a job, in US dollars")
    first_estimate_s: float = Field(
        10,
        gt=0,
        description="engine seconds of a job, for the scaling policy, until some have been measured",
    )
    weights_dir: Path = Field(Path("~/.cache/pawfect/weights"), description="folder the pinned weights are kept in")
    draft_threads: int = Field(0, ge=0, le=256, description="threads of the draft engine; 0 = one per core")


class FluxSettings(Section):
    """The FLUX engine; see `flux.spec` for the models and `flux.stepping` for what the limits mean."""

    checkpoints: dict[str, str] = Field(
        {},
        description="FLUX models to run, as JSON: name to folder of the checkpoint, or to hub for its pinned revision; "
        "names are flux-fill-dev (sessions, inpainting) and flux-dev (text and image to image)",
    )
    mirror: Path | None = Field(
        None, description="folder with hub repositories as REPO/REVISION, looked into before the hub: a mounted bucket"
    )
    hub_dir: Path | None = Field(None, description="folder downloads from the hub are kept in; empty = the hub's own")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where FLUX runs; auto = cuda where there is one"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="numbers FLUX computes in; auto = bfloat16 on cuda, float32 on a CPU"
    )
    encoder_dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="numbers the text encoders compute in; the published ones are stored in bfloat16"
    )
    quantization: str = Field("none", description="how the transformer's weights are kept: none or float8")
    memory_share: float | None = Field(
        None, gt=0, le=1, description="share of the GPU's memory this process may take; empty = all of it"
    )
    places: int = Field(4, ge=1, le=64, description="requests one replica holds at a time, of any priority")
    urgent_places: int = Field(2, ge=0, le=64, description="places beyond those, for urgent requests only")
    batch_rows: int = Field(4, ge=1, le=64, description="images that share one step, at most")
    batch_megapixels: float = Field(
        0.25, gt=0, le=16, description="images that share one step, together, at most, in units of 2^20 pixels"
    )
    aging_s: float = Field(
        600, gt=0, description="so long a wait is worth one level of priority in the engine, in seconds"
    )
    prompt_memory_mb: int = Field(256, ge=1, description="encoded prompts kept in memory, in MiB; one takes 1 to 4")
    prompt_disk_mb: int = Field(2048, ge=1, description="encoded prompts kept on disk, in MiB")
    prompt_dir: Path = Field(Path("~/.cache/pawfect/prompts"), description="folder encoded prompts are kept in")


class GoogleSettings(Section):
    """The `gcp` environment: names of what Terraform made, and who may call."""

    bucket: str = Field(
        "",
        description="gcp: bucket of the sessions' photos; empty = PROJECT_ID.appspot.com, the Firebase default "
        "(newer projects have PROJECT_ID.firebasestorage.app)",
    )
    headshot_originals: str = Field(
        "",
        description="gcp: bucket of the headshots' originals; empty = the sessions' bucket, under headshots/originals/",
        json_schema_extra={"also": "GCS_BUCKET_ORIGINAL"},
    )
    headshot_outputs: str = Field(
        "",
        description="gcp: bucket of the headshots' results; empty = the sessions' bucket, under headshots/outputs/",
        json_schema_extra={"also": "GCS_BUCKET_OUTPUT"},
    )
    database: str = Field("(default)", description="gcp: Firestore database")
    jobs_collection: str = Field("jobs", min_length=1, description="gcp: Firestore collection of our job documents")
    controls_collection: str = Field(
        "controls",
        min_length=1,
        pattern=r"^[A-Za-z0-9_-]+$",
        description="gcp: Firestore collection of what operators set by hand: a pause, numbers of replicas",
    )
    headshots_collection: str = Field(
        "headshots",
        min_length=1,
        pattern=r"^[A-Za-z0-9_-]+$",
        description="collection of the documents that show headshots",
        json_schema_extra={"also": "FIRESTORE_COLLECTION"},
    )
    topic: str = Field(
        "session-processing", min_length=1, description="gcp: topic the app's backend publishes sessions to"
    )
    headshot_topic: str = Field(
        "perkie-headshot-jobs",
        min_length=1,
        description="gcp: topic headshots are asked for on",
        json_schema_extra={"also": "PUBSUB_TOPIC"},
    )
    headshot_subscription: str = Field(
        "perkie-headshot-worker",
        min_length=1,
        description="gcp: push subscription on that topic, to /headshot/push",
        json_schema_extra={"also": "PUBSUB_SUBSCRIPTION"},
    )
    dead_letter_topic: str = Field(
        "session-processing-dead-letter", min_length=1, description="gcp: topic of what could not be done"
    )
    dead_letter_subscription: str = Field(
        "session-processing-dead-letter-service",
        min_length=1,
        description="gcp: the service's own pull subscription on the dead-letter topic",
    )
    timeout_s: float = Field(
        10, gt=0, description="gcp: one call to Firestore, Cloud Storage or Pub/Sub, at most, in seconds"
    )
    transfer_timeout_s: float = Field(
        60, gt=0, description="gcp: one download or upload of a photo, at most, in seconds"
    )
    push_audience: str = Field(
        "", description="gcp: audience of the push subscription's tokens, usually the push endpoint's URL"
    )
    headshot_push_audience: str = Field(
        "", description="gcp: the same of the headshots' push subscription; empty = as the other one"
    )
    push_account: str = Field(
        "", description="gcp: e-mail of the service account whose tokens the push subscription sends"
    )
    allowed_callers: tuple[str, ...] = Field(
        (), description="gcp: e-mails of the service accounts that may use the session routes, as a JSON list"
    )
    caller_audience: str = Field("", description="gcp: audience of those callers' identity tokens")
    certificates_url: str = Field(
        "https://www.googleapis.com/oauth2/v3/certs", description="gcp: key set that signs Google's identity tokens"
    )
    clock_skew_s: float = Field(30, ge=0, le=300, description="gcp: how far a token's clock may be off, in seconds")


def _check_endpoint(text: str) -> str:
    if text and not re.fullmatch(r"https?://[^/?#@\s]+(/[^?#\s]*)?", text):
        raise ValueError("must be http://host:port or https://host:port of a collector, or empty")
    return text


class TracingSettings(Section):
    """Traces; see docs/observability.md."""

    otlp_endpoint: Annotated[str, AfterValidator(_check_endpoint)] = Field(
        "",
        description="address of an OpenTelemetry collector that takes OTLP over HTTP, such as http://collector:4318; "
        "empty = no traces are made",
    )
    sample_ratio: float = Field(
        1,
        ge=0,
        le=1,
        description="share of the traces that is kept; of a request or message that brings a trace, its sender decides",
    )


class CallerSettings(Section):
    """Internal callers: API keys, and how much one caller may ask for."""

    keys_file: Path | None = Field(
        None,
        description="JSON file of API keys, a list of name, sha256, users, requests_per_minute, concurrent_jobs, "
        "expires_at; python -m pawfect.keys writes a row; read again when it changes",
    )
    users: dict[str, tuple[UserPattern, ...]] = Field(
        {},
        description="gcp: user-id patterns whose sessions a Google caller may touch, by its e-mail, as JSON; one that "
        "is not named may touch all",
    )
    requests_per_minute: int = Field(
        120, ge=1, description="requests for work that one caller may send an ingress replica in a minute"
    )
    concurrent_jobs: int = Field(32, ge=1, description="jobs that one caller may have under way")
