"""What a job is. Jobs are immutable; every change is a function in `transitions` that returns the next one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Any, Self

from serve_app.photos.mask_convention import MaskConvention
from serve_app.photos.mounts import HEADSHOT_OUTPUTS

SCHEMA = 4
"""The newest schema of job documents; readers refuse a newer one. 2: jobs without a session, operation, owner.
3: headshots. 4: traceparent."""
UNTRACED_SCHEMA = 3
"""A document says the oldest schema that it can be read as: without a trace that of readers who know of none. So
replicas of two versions share a store while the service is updated, and traces are turned on afterwards."""

ID_PATTERN = r"^[A-Za-z0-9_-]{1,128}$"
"""Of user and session ids; nothing else may become part of a path."""

ANONYMOUS = "anonymous"
"""The owner of what was asked for without a token."""

HEADSHOT_ID_PATTERN = r"^[A-Za-z0-9-][A-Za-z0-9_-]{0,127}$"
"""Of headshots' jobs, whose ids are those of documents as well: Firestore keeps names between double underscores."""

MAX_DELIVERIES = 64
"""Delivery ids remembered per job, the latest ones; a redelivery older than so many other messages counts as new."""


class Status(StrEnum):
    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


class Priority(IntEnum):
    """Smaller is more urgent."""

    URGENT = 0
    NORMAL = 1
    LOW = 2


class Operation(StrEnum):
    """What a job does; the values are the wire's."""

    INPAINT = "ImageInpaint"
    GENERATE = "ImageGeneration"
    TRANSFORM = "ImageTransform"
    HEADSHOT = "PetHeadshot"

    @property
    def lane(self) -> Lane:
        return Lane.HEADSHOTS if self is Operation.HEADSHOT else Lane.IMAGES


class Lane(StrEnum):
    """Queues that do not hold each other up: an hour of edits waiting for a GPU is nothing to a headshot on a CPU."""

    IMAGES = "images"
    HEADSHOTS = "headshots"


class Stage(StrEnum):
    """The stations of a run, in order; also the `stage` label of the stage seconds."""

    QUEUE = "queue"
    DOWNLOAD = "download"
    DECODE = "decode"
    PLAN = "plan"
    ENGINE = "engine"
    COMPOSITE = "composite"
    ENCODE = "encode"
    UPLOAD = "upload"


@dataclass(frozen=True, slots=True)
class Session:
    """A document of the app's backend; ids match `[A-Za-z0-9_-]{1,128}`."""

    user_id: str
    session_id: str

    @property
    def path(self) -> str:
        return f"users/{self.user_id}/sessions/{self.session_id}"

    @property
    def original_path(self) -> str:
        return f"{self.path}/original.jpg"

    @property
    def mask_path(self) -> str:
        return f"{self.path}/mask_auto.png"

    @property
    def edited_path(self) -> str:
        return f"{self.path}/edited.jpg"

    @property
    def preview_path(self) -> str:
        return f"{self.path}/preview.jpg"


@dataclass(frozen=True, slots=True)
class Files:
    """Paths in the photo store: what a job reads and where its results go; None for what it does not have."""

    original: str | None
    mask: str | None
    result: str
    preview: str | None = None


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the result depends on besides the images, resolved when the job came.

    `width` and `height` in pixels, of what is generated or transformed; `strength` in (0, 1], of a transformation.
    `output_format` is jpeg, png or webp; `mask_convention` what marks the pixels to edit in a mask.
    """

    quality: str
    prompt: str
    steps: int
    guidance_scale: float
    seed: int | None = None
    negative_prompt: str | None = None
    true_cfg: float = 1.0
    strength: float = 1.0
    width: int | None = None
    height: int | None = None
    output_format: str = "jpeg"
    mask_convention: MaskConvention = "white"


@dataclass(frozen=True, slots=True)
class Progress:
    """`position` requests go before this one in its engine, None once its turn has come or as long as nobody said;
    `decoding` says that the steps are done and the engine makes an image of them."""

    stage: Stage
    step: int = 0
    steps: int = 0
    eta_s: float | None = None
    position: int | None = None
    decoding: bool = False


@dataclass(frozen=True, slots=True)
class Headshot:
    """What a headshot's run has to say besides its images. `quality` is {pass, metrics, reasons}; the links are those
    of the end of the run, None where there are none (`print_url` also for a caller that nobody knows)."""

    quality: Mapping[str, Any]
    preview_url: str | None = None
    print_url: str | None = None
    links_expire_at: float | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to run a job: whoever presents `token` may write, until another worker has claimed it."""

    token: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class Job:
    """Times are seconds of the Unix clock. `deliveries` are the ids of the messages that asked for this job.

    `attempts` counts runs; `crashes` those that ended without a word, `transient_failures` those that failed in a way
    worth repeating. `message` is the base64 JSON that asked for the job, kept for the dead letters. `closed` says that
    the end has been counted and, for a failure, its dead letter written. `ended_version` is the version that the end
    was written with; a finished job is still written to, so its version grows on.

    `session` is None for a job that somebody asked for over HTTP; then `owner` is that caller, `digest` tells whether
    a repeated request is the same, and its files go with the record. A job that has ended is forgotten after
    `expires_at`, never where that is None, as in records of earlier versions; its lease is then that of whoever forgets
    it. `traceparent` is the W3C trace context of the request or message that asked first; stages of its runs belong to
    that trace. The generations are those of the input images, ABSENT where there is none. `original_path` is where a
    headshot's photo lies; without an owner a message asked for it, and that photo stays when it is forgotten.
    """

    id: str
    session: Session | None
    original_generation: str
    mask_generation: str
    parameters: Parameters
    created_at: float
    published_at: float
    deadline_at: float
    operation: Operation = Operation.INPAINT
    engine: str | None = None
    owner: str = ""
    digest: str = ""
    expires_at: float | None = None
    priority: Priority = Priority.NORMAL
    status: Status = Status.QUEUED
    deliveries: tuple[str, ...] = ()
    message: str = ""
    attempts: int = 0
    crashes: int = 0
    transient_failures: int = 0
    not_before: float = 0.0
    lease: Lease | None = None
    cancel_requested: bool = False
    progress: Progress | None = None
    error_code: str | None = None
    error: str | None = None
    claimed_at: float | None = None
    finished_at: float | None = None
    stage_seconds: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    gpu_seconds: float = 0.0
    cost: float = 0.0
    original_path: str | None = None
    headshot: Headshot | None = None
    closed: bool = False
    ended_version: int | None = None
    traceparent: str | None = None
    version: int = 0

    def evolve(self, **changes: Any) -> Self:
        return replace(self, **changes)

    @property
    def schema(self) -> int:
        """Number written into its document."""
        return UNTRACED_SCHEMA if self.traceparent is None else SCHEMA

    @property
    def files(self) -> Files:
        if self.session is not None:
            session = self.session
            return Files(session.original_path, session.mask_path, session.edited_path, session.preview_path)
        if self.operation is Operation.HEADSHOT:
            outputs = f"{HEADSHOT_OUTPUTS}{self.id}/outputs"
            return Files(self.original_path, None, f"{outputs}/print.png", f"{outputs}/preview.png")
        folder = f"jobs/{self.id}"
        return Files(
            original=None if self.operation is Operation.GENERATE else f"{folder}/init_image",
            mask=f"{folder}/mask_image" if self.operation is Operation.INPAINT else None,
            result=f"{folder}/result",
        )

    @property
    def seed(self) -> int:
        """The given seed, in [0, 2⁶³), or one derived from the id, so that every run of a job draws the same noise;
        that one is below 2⁵³: JSON readers that know only floating point can say it again."""
        if self.parameters.seed is not None:
            return self.parameters.seed
        return int.from_bytes(hashlib.sha256(self.id.encode()).digest()[:8], "big") >> 11


_FIRST_PARAMETERS = ("quality", "prompt", "steps", "guidance_scale", "seed")


def derive_id(session: Session, original_generation: str, mask_generation: str, parameters: Parameters) -> str:
    """A job's identity is what it would produce: the same four always give the same id, `edit-` and 32 hex digits."""
    plain = Parameters(parameters.quality, parameters.prompt, parameters.steps, parameters.guidance_scale)
    # Parameters that joined later count only where they are used, so that the ids of earlier versions stay.
    values = {
        name: value
        for name, value in asdict(parameters).items()
        if name in _FIRST_PARAMETERS or value != getattr(plain, name)
    }
    identity = json.dumps(
        [session.path, original_generation, mask_generation, values], sort_keys=True, separators=(",", ":")
    )
    return "edit-" + hashlib.sha256(identity.encode()).hexdigest()[:32]


def to_document(job: Job) -> dict[str, Any]:
    document = {name: getattr(job, name) for name in Job.__slots__}
    document["session"] = asdict(job.session) if job.session else None
    document["operation"] = str(job.operation)
    document["parameters"] = asdict(job.parameters)
    document["lease"] = asdict(job.lease) if job.lease else None
    document["progress"] = asdict(job.progress) if job.progress else None
    document["headshot"] = _write_headshot(job.headshot) if job.headshot else None
    document["priority"] = int(job.priority)
    document["status"] = str(job.status)
    document["deliveries"] = list(job.deliveries)
    document["stage_seconds"] = dict(job.stage_seconds)
    if job.traceparent is None:  # readers of `UNTRACED_SCHEMA` refuse a field they do not know
        del document["traceparent"]
    return {"schema": job.schema, **document}


def _write_headshot(headshot: Headshot) -> dict[str, Any]:
    return {**{name: getattr(headshot, name) for name in Headshot.__slots__}, "quality": dict(headshot.quality)}


def from_document(document: Mapping[str, Any]) -> Job:
    """Raises ValueError for a document of a newer schema than this code knows."""
    values = dict(document)
    schema = values.pop("schema")
    if schema > SCHEMA:
        raise ValueError(f"job document of schema {schema}; this version reads up to {SCHEMA}")
    values["session"] = Session(**values["session"]) if values["session"] else None
    values["operation"] = Operation(values.get("operation", Operation.INPAINT))
    values["parameters"] = Parameters(**values["parameters"])
    values["lease"] = Lease(**values["lease"]) if values["lease"] else None
    progress = values["progress"]
    values["progress"] = Progress(**{**progress, "stage": Stage(progress["stage"])}) if progress else None
    headshot = values.get("headshot")
    values["headshot"] = Headshot(**headshot) if headshot else None
    values["priority"] = Priority(values["priority"])
    values["status"] = Status(values["status"])
    values["deliveries"] = tuple(values["deliveries"])
    values["stage_seconds"] = MappingProxyType(values["stage_seconds"])
    return Job(**values)
