"""The stores that the configured environment calls for, opened once per process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from serve_app.clock import SystemClock
from serve_app.google_clients import GoogleClients, find_project, make_clients, uses_emulators
from serve_app.jobs.controls import ControlStore
from serve_app.jobs.dead_letters import DeadLetters
from serve_app.jobs.exhaustion import Messages
from serve_app.jobs.firestore import FirestoreJobStore
from serve_app.jobs.firestore_controls import FirestoreControls
from serve_app.jobs.pubsub import ExhaustedMessages, PubsubDeadLetters
from serve_app.jobs.sqlite import SqliteJobStore
from serve_app.jobs.sqlite_controls import SqliteControls
from serve_app.jobs.sqlite_database import SqliteDatabase
from serve_app.jobs.sqlite_dead_letters import SqliteDeadLetters
from serve_app.jobs.store import JobStore
from serve_app.photos.folder import FolderPhotoStore
from serve_app.photos.gcs import GcsPhotoStore
from serve_app.photos.gcs_links import GcsLinks
from serve_app.photos.links import Links
from serve_app.photos.mounts import HEADSHOT_ORIGINALS, HEADSHOT_OUTPUTS, MountedPhotoStore
from serve_app.photos.service_links import ServiceLinks, open_key
from serve_app.photos.store import PhotoStore
from serve_app.settings import Settings
from serve_app.settings_sections import GoogleSettings

LOCAL_BUCKET = "local"
"""What the embedded store's folder of originals is called on the wire, where buckets are named."""


@dataclass(frozen=True, slots=True)
class Stores:
    """`exhausted` are the messages Pub/Sub gave up; None where there is no Pub/Sub. `originals_bucket` is the name of
    what headshots' originals lie in."""

    jobs: JobStore
    dead_letters: DeadLetters
    photos: PhotoStore
    links: Links
    controls: ControlStore
    close: Callable[[], Awaitable[None]]
    exhausted: Messages | None = None
    originals_bucket: str = LOCAL_BUCKET


def check_environment(settings: Settings) -> None:
    """Raises ConfigurationError for an environment whose stores cannot be had; asked before anything is started."""
    if settings.env == "gcp":
        find_project(settings)


def open_stores(settings: Settings) -> Stores:
    """In `gcp` the stores belong to the event loop that uses them first. Raises ConfigurationError."""
    return _open_google(settings) if settings.env == "gcp" else _open_embedded(settings)


def _open_embedded(settings: Settings) -> Stores:
    root = settings.data_dir.expanduser().resolve()
    database = SqliteDatabase(root / "pawfect.db")
    jobs = SqliteJobStore(database)

    async def close() -> None:
        await jobs.close()
        database.close()

    photos = FolderPhotoStore(root / "photos")
    letters, controls = SqliteDeadLetters(database), SqliteControls(database)
    return Stores(jobs, letters, photos, open_service_links(settings), controls, close)


def _open_google(settings: Settings) -> Stores:
    clients, google = make_clients(settings), settings.google
    jobs = FirestoreJobStore(clients.firestore, google)
    buckets = list_buckets(google)
    names = {clients.bucket, *buckets.values()}
    stores = {name: GcsPhotoStore(clients.storage, name, google) for name in names}
    photos = MountedPhotoStore(stores[clients.bucket], {prefix: stores[name] for prefix, name in buckets.items()})
    links = open_service_links(settings) if uses_emulators() else _open_gcs_links(settings, clients)

    async def close() -> None:
        await jobs.close()
        for store in stores.values():
            store.close()
        if isinstance(links, GcsLinks):
            links.close()
        await clients.close()

    letters = PubsubDeadLetters(clients.publisher, clients.topic(google.dead_letter_topic), google)
    exhausted = ExhaustedMessages(clients.subscriber, clients.subscription(google.dead_letter_subscription), google)
    originals = google.headshot_originals or clients.bucket
    controls = FirestoreControls(clients.firestore, google)
    return Stores(jobs, letters, photos, links, controls, close, exhausted, originals)


def list_buckets(google: GoogleSettings) -> dict[str, str]:
    """The buckets beside the sessions' one, by the prefix of the paths that they hold."""
    given = {HEADSHOT_ORIGINALS: google.headshot_originals, HEADSHOT_OUTPUTS: google.headshot_outputs}
    return {prefix: bucket for prefix, bucket in given.items() if bucket}


def open_service_links(settings: Settings) -> ServiceLinks:
    """Links that this service signs and answers itself. Raises ConfigurationError when their key cannot be had."""
    key = open_key(settings.data_dir.expanduser().resolve() / "link.key")
    base_url = settings.links.public_url or f"http://127.0.0.1:{settings.port}"
    return ServiceLinks(key, base_url, settings.links, SystemClock())


def _open_gcs_links(settings: Settings, clients: GoogleClients) -> GcsLinks:
    return GcsLinks(
        clients.storage,
        clients.credentials,
        clients.bucket,
        list_buckets(settings.google),
        settings.google,
        settings.links,
    )
