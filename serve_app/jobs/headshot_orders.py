"""Headshots that somebody asks for: with the photo, with the name of one that was uploaded, or in a message."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass

from serve_app.clock import Clock
from serve_app.errors import Conflict, InvalidMessage, NotFound, ObjectMissing, PreconditionFailed
from serve_app.jobs import transitions
from serve_app.jobs.catalog import HEADSHOTS
from serve_app.jobs.headshot_names import derive_headshot_id, is_possible, is_ticket, make_safe
from serve_app.jobs.model import ANONYMOUS, Job, Operation, Parameters, Priority
from serve_app.jobs.service import JobService
from serve_app.photos.mounts import HEADSHOT_ORIGINALS as ORIGINALS
from serve_app.photos.store import ABSENT, PhotoStore
from serve_app.settings import Settings
from serve_app.tracing import current_traceparent

PARAMETERS = Parameters(quality="headshot", prompt="", steps=1, guidance_scale=0.0, output_format="png")


@dataclass(frozen=True, slots=True)
class PhotoOrder:
    """A photo and who sent it. `key` is the caller's idempotency key; `media_type` one of EXTENSIONS."""

    owner: str
    photo: bytes
    file_name: str
    media_type: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class UploadOrder:
    """A photo that lies in the store, at `key` of `bucket`; without an owner a message says so.

    `delivery` identifies the message, `message` is its data as it came, `published_at` its Unix time.
    """

    job_id: str
    bucket: str
    key: str
    owner: str = ""
    delivery: str = ""
    message: str = ""
    published_at: float | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Of an original: by bucket and key on the wire, by path in the photo store."""

    bucket: str
    key: str
    path: str


class HeadshotSubmitter:
    """`bucket` is the name of the one that originals lie in."""

    def __init__(self, jobs: JobService, photos: PhotoStore, bucket: str, settings: Settings, clock: Clock) -> None:
        self._jobs = jobs
        self.bucket = bucket
        self._photos = photos
        self._settings = settings
        self._clock = clock

    def choose_place(self, job_id: str, file_name: str, media_type: str) -> Place:
        """Where a job's original goes."""
        path = f"{ORIGINALS}{job_id}/original/{make_safe(file_name, media_type)}"
        key = path.removeprefix(ORIGINALS) if self._has_own_bucket() else path
        return Place(self.bucket, key, path)

    async def submit_photo(self, order: PhotoOrder) -> Job:
        """Store the photo and ask for its headshot; the same key with the same photo gives the same job again.

        Raises Conflict for a key that was used for another photo, StoreUnavailable.
        """
        job_id = derive_headshot_id(order.owner, order.key)
        digest = await asyncio.to_thread(lambda: hashlib.sha256(order.photo).hexdigest())
        if (found := await self._find(job_id)) is not None:
            return _recognise(found, order.owner, digest)
        path = self.choose_place(job_id, order.file_name, order.media_type).path
        generation = await self._keep(path, order)
        job = await self._jobs.create(self._make(job_id, order.owner, digest, path, generation))
        if job.original_path != path:  # asked for at the same time, with the photo under another name
            await self._photos.delete(path)
        return _recognise(job, order.owner, digest)

    async def submit_upload(self, order: UploadOrder) -> Job:
        """Ask for the headshot of an uploaded photo.

        Raises InvalidMessage for a place that is not where originals lie, Conflict for another job's id; where a caller
        asks, NotFound for a place that nothing was uploaded to; StoreUnavailable.
        """
        path = self._locate(order)
        generation = await self._photos.stat(path)
        if order.owner and generation == ABSENT:
            raise NotFound(f"Nothing was uploaded to {order.key} yet; upload the photo first.")
        if order.owner:
            digest = hashlib.sha256(path.encode()).hexdigest()
            fresh = self._make(order.job_id, order.owner, digest, path, generation)
            return _recognise(await self._jobs.create(fresh), order.owner, digest)
        fresh = self._make(order.job_id, "", "", path, generation)  # a later message may name another photo
        fresh = fresh.evolve(
            deliveries=(order.delivery,), message=order.message, published_at=order.published_at or fresh.created_at
        )
        return await self._jobs.admit(fresh, order.delivery)

    async def refuse(self, job_id: str, message: str) -> None:
        """Show in the document of a job that nobody has asked for yet why a message about it was not accepted; a later
        message may do better. Raises StoreUnavailable."""
        fresh = self._make(job_id, "", "", None, ABSENT)
        failed = transitions.fail(fresh, fresh.created_at, InvalidMessage.code, message)
        await self._jobs.create(transitions.close(failed))

    async def _find(self, job_id: str) -> Job | None:
        try:
            return await self._jobs.get(job_id)
        except NotFound:
            return None

    def _make(self, job_id: str, owner: str, digest: str, path: str | None, generation: str) -> Job:
        now = self._clock.now()
        deadline_at = now + self._settings.jobs.deadline_s
        return Job(
            id=job_id,
            session=None,
            original_generation=generation,
            mask_generation=ABSENT,
            parameters=PARAMETERS,
            created_at=now,
            published_at=now,
            deadline_at=deadline_at,
            operation=Operation.HEADSHOT,
            engine=HEADSHOTS,
            owner=owner,
            digest=digest,
            expires_at=deadline_at + self._settings.headshots.ttl_s,
            priority=Priority.LOW if owner == ANONYMOUS else Priority.NORMAL,
            original_path=path,
            traceparent=current_traceparent(),
        )

    async def _keep(self, path: str, order: PhotoOrder) -> str:
        try:
            return await self._photos.write(path, order.photo, content_type=order.media_type, expected=ABSENT)
        except PreconditionFailed:
            try:
                there = await self._photos.read(path, max_bytes=self._settings.photos.max_bytes)
            except ObjectMissing:  # whoever wrote it has taken it away again
                return await self._keep(path, order)
            if there.data != order.photo:
                raise _key_taken() from None
            return there.generation

    def _locate(self, order: UploadOrder) -> str:
        if order.bucket != self.bucket:
            raise InvalidMessage(f"orig_bucket is not the one for originals, which is {self.bucket}.")
        path = f"{ORIGINALS}{order.key}" if self._has_own_bucket() else order.key
        if not path.startswith(ORIGINALS) or not is_possible(path):
            raise InvalidMessage("orig_key is not the name of an original; it looks like JOB_ID/original/NAME.")
        if not order.owner:
            return path
        if not is_ticket(order.owner, order.job_id) or not path.startswith(f"{ORIGINALS}{order.job_id}/original/"):
            raise InvalidMessage(
                "This is no upload of yours; send job_id and orig_key as POST /headshot/uploads gave them."
            )
        return path

    def _has_own_bucket(self) -> bool:
        """In the sessions' bucket the key says the whole path."""
        return self._settings.env == "local" or bool(self._settings.google.headshot_originals)


def _recognise(found: Job, owner: str, digest: str) -> Job:
    """The job that is there already, if it is the one that is asked for."""
    if found.operation is not Operation.HEADSHOT or found.owner != owner:
        raise Conflict("This job_id is another job's; use a new one.")
    if found.digest != digest:
        raise _key_taken()
    return found


def _key_taken() -> Conflict:
    return Conflict("This Idempotency-Key, or job_id, was used for another photo; use a new one.")
