"""A Pub/Sub push that asks for a headshot."""

from __future__ import annotations

from ingress.headshot_schemas import HeadshotMessage
from ingress.push import Push, read_message
from ingress.services import Services
from serve_app.errors import Conflict, InvalidMessage, PawfectError
from serve_app.jobs.exhaustion import find_headshot
from serve_app.jobs.headshot_orders import UploadOrder
from serve_app.jobs.model import Job

EXAMPLE = 'an object with "job_id", "orig_bucket" and "orig_key"'


async def submit(services: Services, push: Push) -> Job:
    """Raises InvalidMessage for what no delivery will make acceptable, StoreUnavailable; instead of the first Paused,
    since a pause may be there because good messages are refused."""
    try:
        message = read_message(push, HeadshotMessage, EXAMPLE)
    except InvalidMessage as error:
        await _show(services, push, error)
        raise
    order = UploadOrder(
        job_id=message.job_id,
        bucket=message.orig_bucket,
        key=message.orig_key,
        delivery=push.message_id,
        message=push.data,
        published_at=push.published_at,
    )
    try:
        return await services.headshots.submit_upload(order)
    except (Conflict, InvalidMessage) as error:
        await _show(services, push, error)
        raise InvalidMessage(error.message) from None


async def _show(services: Services, push: Push, error: PawfectError) -> None:
    """In the document of the job, if at least that much of the message can be read. Raises Paused."""
    services.controls.check()
    if (job_id := find_headshot(push.data)) is not None:
        await services.headshots.refuse(job_id, error.message)
