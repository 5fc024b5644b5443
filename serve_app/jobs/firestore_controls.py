"""The production form of the operators' controls: one Firestore document, `{controls_collection}/serving`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from google.cloud.firestore import AsyncClient, AsyncWriteBatch

from serve_app.jobs.controls import Controls, from_document, to_document
from serve_app.jobs.firestore_documents import Documents, Snapshot, write
from serve_app.settings_sections import GoogleSettings

DOCUMENT = "serving"


class FirestoreControls:
    """The client is the caller's to close."""

    def __init__(self, client: AsyncClient, settings: GoogleSettings) -> None:
        self._documents = Documents(client, settings.timeout_s)
        self._reference = client.collection(settings.controls_collection).document(DOCUMENT)

    async def read(self) -> Controls:
        return from_document((await self._documents.get(self._reference))[0].to_dict())

    async def change(self, decide: Callable[[Controls], Controls]) -> Controls:
        def work(snapshots: Sequence[Snapshot], batch: AsyncWriteBatch) -> Controls:
            controls = decide(from_document(snapshots[0].to_dict()))
            write(batch, snapshots[0], to_document(controls))
            return controls

        return await self._documents.change([self._reference], work)
