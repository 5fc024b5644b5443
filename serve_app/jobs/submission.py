"""Jobs that callers ask for over HTTP, with images of their own: checked, stored, queued; once per idempotency key."""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from dataclasses import asdict, dataclass

from serve_app.clock import Clock
from serve_app.errors import Conflict, InvalidRequest, PreconditionFailed
from serve_app.jobs.catalog import Choice, choose
from serve_app.jobs.model import Job, Operation, Parameters, Priority
from serve_app.jobs.store import JobStore, Write
from serve_app.photos.mask_convention import MaskConvention
from serve_app.photos.media_types import find_media_type
from serve_app.photos.store import ABSENT, PhotoStore
from serve_app.settings import Settings
from serve_app.tracing import current_traceparent

SIDE_PX = 16
LEAST_PX, MOST_PIXELS = 64, 2**20
DEFAULT_SIDE_PX = 1024
DEFAULT_STRENGTH = 0.6
"""Of a transformation: the composition stays, surfaces change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOrder:
    """A wish whose fields are each in range; None means "as configured".

    `owner` is the caller; `key` its idempotency key. `init_image` and `mask_image` are files. `width` and `height` are
    in pixels.
    """

    owner: str
    operation: Operation
    key: str | None = None
    init_image: bytes | None = None
    mask_image: bytes | None = None
    model: str | None = None
    quality: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    true_cfg: float = 1.0
    steps: int | None = None
    guidance_scale: float | None = None
    strength: float | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    output_format: str = "jpeg"
    mask_convention: MaskConvention = "white"
    priority: Priority = Priority.NORMAL
    deadline_s: float | None = None


class Submitter:
    def __init__(self, store: JobStore, photos: PhotoStore, settings: Settings, clock: Clock) -> None:
        self._store = store
        self._photos = photos
        self._settings = settings
        self._clock = clock

    async def submit(self, order: JobOrder) -> Job:
        """Accept an order; once this returns the job survives any crash. The same key with the same order gives the
        same job again, whatever has become of it.

        Raises InvalidRequest for what no run could do, Conflict for a key that was used for another order,
        StoreUnavailable.
        """
        check_images(order)
        choice = choose(self._settings, order.operation, order.quality, order.model)
        check_prompt(order)
        now = self._clock.now()
        deadline_at = now + (order.deadline_s or self._settings.jobs.deadline_s)
        fresh = Job(
            id=derive_job_id(order.owner, order.key),
            session=None,
            original_generation=ABSENT,
            mask_generation=ABSENT,
            parameters=self._resolve(order, choice),
            created_at=now,
            published_at=now,
            deadline_at=deadline_at,
            priority=order.priority,
            operation=order.operation,
            engine=choice.engine,
            owner=order.owner,
            digest=await asyncio.to_thread(digest, order),  # megabytes of images
            expires_at=deadline_at + self._settings.jobs.result_ttl_s,
            traceparent=current_traceparent(),
        )
        # Not left to the transaction: by then the job may have expired, and its images would not have been stored anew.
        if (found := await self._store.get(fresh.id)) is not None:
            return _recognise(found, fresh)
        original, mask = await asyncio.gather(
            self._keep(fresh.files.original, order.init_image), self._keep(fresh.files.mask, order.mask_image)
        )
        fresh = fresh.evolve(original_generation=original, mask_generation=mask)
        accepted = await self._store.change(
            fresh.id, None, lambda job, _document: None if job is not None else Write(fresh)
        )
        assert accepted is not None
        return _recognise(accepted, fresh)

    def _resolve(self, order: JobOrder, choice: Choice) -> Parameters:
        strength = 1.0
        if order.operation is Operation.TRANSFORM:
            strength = DEFAULT_STRENGTH if order.strength is None else order.strength
        width, height = choose_size(order)
        return Parameters(
            quality=choice.quality,
            prompt=order.prompt or self._settings.prompt,
            steps=order.steps if order.steps is not None else choice.row.steps,
            guidance_scale=order.guidance_scale if order.guidance_scale is not None else choice.guidance,
            seed=order.seed,
            negative_prompt=order.negative_prompt,
            true_cfg=order.true_cfg,
            strength=strength,
            width=width,
            height=height,
            output_format=order.output_format,
            mask_convention=order.mask_convention,
        )

    async def _keep(self, path: str | None, data: bytes | None) -> str:
        """Store an input once; under a key that is used again it must be the same image."""
        if path is None or data is None:
            return ABSENT
        kind = find_media_type(data)
        assert kind is not None
        try:
            return await self._photos.write(path, data, content_type=kind, expected=ABSENT)
        except PreconditionFailed:
            there = await self._photos.read(path, max_bytes=self._settings.photos.max_bytes)
            if there.data != data:
                raise _key_taken() from None
            return there.generation


def derive_job_id(owner: str, key: str | None) -> str:
    """`job-` and 32 hex digits: of the caller and its key, else drawn."""
    if key is None:
        return f"job-{uuid.uuid4().hex}"
    return "job-" + hashlib.sha256(json.dumps([owner, key]).encode()).hexdigest()[:32]


def _recognise(found: Job, fresh: Job) -> Job:
    """The job that is there already, if it is the one that is asked for."""
    if found.digest != fresh.digest:
        raise _key_taken()
    return found


def digest(order: JobOrder) -> str:
    """The same for two orders that ask for the same, their images included; sha256 in hex."""
    values = asdict(order)
    del values["key"], values["owner"]
    for name in ("init_image", "mask_image"):
        values[name] = hashlib.sha256(values[name]).hexdigest() if values[name] is not None else None
    values |= {"operation": str(order.operation), "priority": int(order.priority)}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def check_prompt(order: JobOrder) -> None:
    """Raises InvalidRequest where the configured prompt, which speaks of leashes, would make no sense."""
    if not order.prompt and order.operation is not Operation.INPAINT:
        raise InvalidRequest(f"{order.operation} needs a prompt.", "prompt")


def check_images(order: JobOrder) -> None:
    """Raises InvalidRequest when an operation lacks an image, has one too many, or a file is none."""
    wanted = {
        "init_image": order.operation is not Operation.GENERATE,
        "mask_image": order.operation is Operation.INPAINT,
    }
    for name, is_wanted in wanted.items():
        data: bytes | None = getattr(order, name)
        if is_wanted and not data:
            raise InvalidRequest(f"{order.operation} needs {name}.", name)
        if not is_wanted and data is not None:
            raise InvalidRequest(f"{order.operation} takes no {name}.", name)
        if data is not None and find_media_type(data) is None:
            raise InvalidRequest(f"{name} is not an image this service reads; send a JPEG, PNG, WebP or GIF.", name)


def choose_size(order: JobOrder) -> tuple[int | None, int | None]:
    """Width and height in pixels; None, None where the image decides. Raises InvalidRequest."""
    width, height = order.width, order.height
    if order.operation is Operation.INPAINT:
        if width is not None or height is not None:
            raise InvalidRequest(f"{order.operation} keeps the image's size; leave width and height out.", "width")
        return None, None
    if (width is None) != (height is None):
        raise InvalidRequest("width and height go together.", "height" if height is None else "width")
    if width is None or height is None:
        return (DEFAULT_SIDE_PX, DEFAULT_SIDE_PX) if order.operation is Operation.GENERATE else (None, None)
    for name, side in (("width", width), ("height", height)):
        if side % SIDE_PX or side < LEAST_PX:
            raise InvalidRequest(f"{name} is {side}; multiples of {SIDE_PX} from {LEAST_PX} are accepted.", name)
    if width * height > MOST_PIXELS:
        raise InvalidRequest(f"{width} × {height} pixels are more than the {MOST_PIXELS} accepted.", "width")
    return width, height


def _key_taken() -> Conflict:
    return Conflict("This Idempotency-Key was used for another request; use a new one.")
