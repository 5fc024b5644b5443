"""Firestore documents, read and changed in optimistic transactions; waits are bounded, vendor errors translated.

Transactions. All documents of one are read by a single call, so they are of one instant; the commit is atomic and
carries, for each document it writes, the condition that it is still as it was read. Nobody is locked out meanwhile: the
vendor's mobile and web libraries work like this. The server library's own transactions lock what they read instead. Of
16 workers racing for one job the winner then took 2.07 s on the emulator (until the others' locks timed out) and takes
0.04 s so; locks would also hold up the app's writes to its own session documents, and outlive a worker killed between
reading and writing. A document that was read and is not written is not checked again. Every transaction of ours writes
the job it read, which orders any two that depend on each other; see `firebase.google.com/docs/firestore/
transaction-data-contention` for the vendor's words.

Bounds. One call, repeats included, takes at most `timeout_s`. Reads are repeated within that time after UNAVAILABLE,
INTERNAL, ABORTED and RESOURCE_EXHAUSTED, with pauses of 0.1 s doubling to 1 s, with jitter. A commit is never repeated
blindly: a refused one, or one whose answer was lost, makes the transaction read again and decide anew, which is safe
because of the conditions. Collisions are tried 8 times with jittered pauses of 20 ms doubling, lost answers twice. The
vendor's own repeats, up to 300 s, are switched off.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

from google.api_core import exceptions
from google.api_core.retry_async import AsyncRetry, if_exception_type
from google.auth.exceptions import GoogleAuthError
from google.cloud.firestore import AsyncClient, AsyncDocumentReference, AsyncQuery, AsyncWriteBatch, DocumentSnapshot
from google.cloud.firestore_v1.async_aggregation import AsyncAggregationQuery
from grpc import RpcError

from serve_app.errors import StoreUnavailable, UnexpectedFailure

T = TypeVar("T")

Snapshot: TypeAlias = DocumentSnapshot[AsyncDocumentReference]

Work = Callable[[Sequence[Snapshot], AsyncWriteBatch], T]
"""A pure decision: the documents as they are, in the order asked → writes added to the batch, and a result."""

ATTEMPTS = 8
PAUSE_S = 0.01

_REPEATED = (
    exceptions.ServiceUnavailable,
    exceptions.InternalServerError,
    exceptions.Aborted,
    exceptions.TooManyRequests,
)
_COLLISIONS = (exceptions.Aborted, exceptions.AlreadyExists, exceptions.FailedPrecondition, exceptions.NotFound)
"""How a commit says that a document is not any more as it was read."""


class Documents:
    def __init__(self, client: AsyncClient, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._repeat = AsyncRetry(if_exception_type(*_REPEATED), initial=0.1, maximum=1.0, timeout=timeout_s)

    async def get(self, *references: AsyncDocumentReference) -> list[Snapshot]:
        """As of one instant, in the order asked; what is not there has `exists` False."""

        async def read() -> list[Snapshot]:
            found = self._client.get_all(list(references), retry=None, timeout=self._timeout_s)
            return [snapshot async for snapshot in found]

        found = {snapshot.reference.path: snapshot for snapshot in await self._read(read)}
        return [found[reference.path] for reference in references]

    async def query(self, query: AsyncQuery) -> list[Snapshot]:
        return await self._read(lambda: query.get(retry=None, timeout=self._timeout_s))

    async def count(self, query: AsyncQuery) -> int:
        result = await self._read(lambda: AsyncAggregationQuery(query).count().get(retry=None, timeout=self._timeout_s))
        return int(result[0][0].value)

    async def put(self, reference: AsyncDocumentReference, fields: Mapping[str, Any]) -> None:
        """Create or replace, whatever was there."""
        batch = self._client.batch()
        batch.set(reference, dict(fields))
        await self._commit(batch)

    async def change(self, references: Sequence[AsyncDocumentReference], work: Work[T]) -> T:
        """Read, decide and write as one transaction; what `work` raises reaches the caller and nothing is written."""
        unanswered = False
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(random.uniform(0, PAUSE_S * 2**attempt))
            batch = self._client.batch()
            result = work(await self.get(*references), batch)
            if not len(batch):
                return result
            try:
                if await self._commit(batch):
                    return result
            except StoreUnavailable:
                if unanswered:
                    raise
                unanswered = True
        raise StoreUnavailable(f"{references[0].path} was changed by others {ATTEMPTS} times in a row.")

    async def _commit(self, batch: AsyncWriteBatch) -> bool:
        """False when a document was not as it was read, and nothing is written. After StoreUnavailable nobody knows."""
        with _translate_errors():
            try:
                async with asyncio.timeout(self._timeout_s):
                    await batch.commit(retry=None, timeout=self._timeout_s)
            except _COLLISIONS:
                return False
        return True

    async def _read(self, call: Callable[[], Awaitable[T]]) -> T:
        with _translate_errors():
            async with asyncio.timeout(self._timeout_s):
                return await self._repeat(call)()


@contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except exceptions.InvalidArgument as error:
        raise UnexpectedFailure(f"Firestore cannot do what it was asked: {error.message}.") from error
    except (exceptions.GoogleAPIError, GoogleAuthError, RpcError, TimeoutError) as error:
        raise StoreUnavailable(
            f"Firestore did not answer: {type(error).__name__} {error}".rstrip(" .") + "."
        ) from error


def delete(batch: AsyncWriteBatch, snapshot: Snapshot) -> None:
    """Add to the batch: delete the document, which is there, if it still is as in the snapshot."""
    batch.delete(snapshot.reference, option=AsyncClient.write_option(last_update_time=snapshot.update_time))


def write(batch: AsyncWriteBatch, snapshot: Snapshot, fields: Mapping[str, Any]) -> None:
    """Add to the batch: create the document, or merge the fields into it, if it still is as in the snapshot."""
    if snapshot.exists:
        unchanged = AsyncClient.write_option(last_update_time=snapshot.update_time)
        batch.update(snapshot.reference, dict(fields), option=unchanged)
    else:
        batch.create(snapshot.reference, dict(fields))
