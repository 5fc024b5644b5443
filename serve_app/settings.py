"""Every knob, typed and validated once.

Values come from the environment (`PAWFECT_…`, nested with two underscores: `PAWFECT_JOBS__LEASE_S`) and from `.env`.
The names of the services this one replaces (`ENV`, `PORT`, `PROJECT_ID`, …) are accepted as aliases. The tree is frozen
and travels to the replicas as it is: a replica never reads the environment again.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from serve_app.errors import ConfigurationError

PREFIX = "PAWFECT_"
DEFAULT_PROMPT = "seamless natural background matching surrounding area, photorealistic, no leash, no rope, no cord"


def _check_user_pattern(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_*-]{1,128}", text):
        raise ValueError("must be 1 to 128 letters, digits, '_', '-' or '*', which stands for any characters")
    return text


UserPattern = Annotated[str, AfterValidator(_check_user_pattern)]


class Section(BaseModel):
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
    database: str = Field("(default)", description="gcp: Firestore database")
    jobs_collection: str = Field("jobs", min_length=1, description="gcp: Firestore collection of our job documents")
    topic: str = Field(
        "session-processing", min_length=1, description="gcp: topic the app's backend publishes sessions to"
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


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_file=".env",
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    env: Literal["local", "gcp"] = Field(
        "local",
        validation_alias=AliasChoices("PAWFECT_ENV", "ENV"),
        description="local: SQLite, a folder and loopback; gcp: Firestore, Cloud Storage and Pub/Sub",
    )
    port: int = Field(
        8000, ge=1, le=65535, validation_alias=AliasChoices("PAWFECT_PORT", "PORT"), description="HTTP port"
    )
    metrics_port: int = Field(8080, ge=0, le=65535, description="Prometheus port; 0 = any free one")
    data_dir: Path = Field(Path("data"), description="local: folder of the database and the photos")
    service_name: str = Field(
        "pawfect",
        validation_alias=AliasChoices("PAWFECT_SERVICE_NAME", "SERVICE_NAME"),
        description="name in the logs",
    )
    project_id: str | None = Field(
        None, validation_alias=AliasChoices("PAWFECT_PROJECT_ID", "PROJECT_ID"), description="gcp: project"
    )
    region: str = Field(
        "us-east4", validation_alias=AliasChoices("PAWFECT_REGION", "REGION"), description="gcp: region"
    )
    firebase_credentials: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("PAWFECT_FIREBASE_CREDENTIALS", "FIREBASE_CREDENTIALS"),
        description="gcp: service-account key as base64 JSON; better none, for Workload Identity",
    )
    hf_token: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("PAWFECT_HF_TOKEN", "HF_TOKEN"),
        description="token sent to the model hub when weights are fetched from it",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="least severe line that is logged"
    )
    prompt: str = Field(DEFAULT_PROMPT, min_length=1, max_length=2000, description="prompt of a job that brings none")
    quality: str = Field("draft", description="quality of a job that asks for auto or nothing; a row of qualities")
    qualities: dict[str, Quality] = Field(
        default_factory=lambda: dict(DEFAULT_QUALITIES),
        description="the quality table, as JSON; rows given here replace the shipped ones",
    )
    editing: EditingSettings = EditingSettings()
    photos: PhotoSettings = PhotoSettings()
    jobs: JobSettings = JobSettings()
    engines: EngineSettings = EngineSettings()
    flux: FluxSettings = FluxSettings()
    google: GoogleSettings = GoogleSettings()
    callers: CallerSettings = CallerSettings()

    def without_secrets(self) -> Self:
        """The same for the replicas: what is bound to a deployment is kept in Ray's own store, where no key belongs."""
        return self.model_copy(update={"firebase_credentials": None, "hf_token": None})

    @field_validator("qualities", mode="before")
    @classmethod
    def _keep_the_shipped_rows(cls, given: Any) -> Any:
        if isinstance(given, dict) and "auto" in given:
            raise ValueError("a row cannot be called 'auto', which stands for the configured quality")
        return {**DEFAULT_QUALITIES, **given} if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _have_the_default_quality(self) -> Self:
        if self.quality not in self.qualities:
            raise ValueError(
                f"PAWFECT_QUALITY: quality '{self.quality}' is not a row of qualities ({', '.join(self.qualities)})"
            )
        return self


def load_settings(**given: Any) -> Settings:
    """Read the environment and `.env`; `given` wins over both.

    Raises ConfigurationError with one sentence per wrong value, each naming the variable and what it accepts.
    """
    try:
        _refuse_unknown_names({**dotenv_values(".env"), **os.environ})
        return Settings(**given)
    except ValidationError as error:
        raise ConfigurationError(" ".join(_describe(detail) for detail in error.errors())) from None
    except SettingsError as error:  # a value that should be JSON and is not
        raise ConfigurationError(f"{error}: {error.__cause__}.") from None


def _describe(detail: Any) -> str:
    message = detail["msg"].removeprefix("Value error, ")
    path = [str(part) for part in detail["loc"]]
    if not path:  # several settings that do not go together; the message names them
        return f"{message}."
    name = path[0].upper() if path[0].startswith(PREFIX) or path[0].isupper() else PREFIX + "__".join(path).upper()
    shown = "" if isinstance(detail.get("input"), dict) else f" (got {detail.get('input')!r})"
    return f"{name}: {message}{shown}."


def _refuse_unknown_names(environment: Mapping[str, str | None]) -> None:
    known = {name for name, *_ in describe_settings()}
    for name in environment:
        if name.startswith(PREFIX) and name not in known and not name.startswith(PREFIX + "QUALITIES__"):
            close = difflib.get_close_matches(name, known, n=1)
            raise ConfigurationError(f"{name} is not a setting." + (f" Did you mean {close[0]}?" if close else ""))


def describe_settings() -> list[tuple[str, str, str, str]]:
    """One row per setting: variable, other accepted names (comma-separated), default as in `.env`, description."""
    rows: list[tuple[str, str, str, str]] = []
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            for inner, inner_field in field.annotation.model_fields.items():
                variable = f"{PREFIX}{name}__{inner}".upper()
                rows.append((variable, "", _write(inner_field.default), inner_field.description or ""))
            continue
        aliases = field.validation_alias.choices if isinstance(field.validation_alias, AliasChoices) else []
        others = ", ".join(str(alias) for alias in aliases if not str(alias).startswith(PREFIX))
        default = "" if name == "qualities" else _write(field.default)
        rows.append((f"{PREFIX}{name}".upper(), others, default, field.description or ""))
    return rows


def _write(default: Any) -> str:
    if isinstance(default, tuple | dict):
        return json.dumps(default)
    return "" if default is None else str(default)


def write_env_example() -> str:
    """The text of `.env.example`: every setting at its default, commented out."""
    lines = ["# Every setting with its default. Copy to .env and uncomment what you change."]
    for variable, others, default, description in describe_settings():
        also = f" (also: {others})" if others else ""
        lines += ["", f"# {description}{also}", f"# {variable}={default}"]
    return "\n".join(lines) + "\n"


def write_table() -> str:
    """The README's configuration table, as Markdown."""
    lines = ["| variable | default | what it is |", "| --- | --- | --- |"]
    for variable, others, default, description in describe_settings():
        also = f" (also `{others}`)" if others else ""
        shown = f"`{default}`" if default else "–"
        lines.append(f"| `{variable}`{also} | {shown} | {description} |")
    return "\n".join(lines) + "\n"


def write_qualities() -> str:
    """The README's table of the shipped qualities, as Markdown."""
    lines = [
        "| quality | engine | steps | guidance | model pixels per photo pixel, at most | largest crop, 2^20 pixels |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in DEFAULT_QUALITIES.items():
        effort = f"{row.steps} | {row.guidance:g}" if row.engine == "flux" else "– | –"
        lines.append(f"| `{name}` | {row.engine} | {effort} | {row.detail:g} | {row.max_megapixels:g} |")
    return "\n".join(lines) + "\n"
