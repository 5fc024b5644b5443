"""What calls to Firestore, Cloud Storage and Pub/Sub are billed as, by Google's published rules.

- Firestore (`firebase.google.com/docs/firestore/pricing`): one read for each document that a lookup asks for, found or
  not, and that a query returns; at least one per query; one per 1,000 index entries of an aggregation, at least one;
  one write or delete for each document of a commit that got through.
- Cloud Storage (`cloud.google.com/storage/pricing#operations-by-class`, JSON API): inserts and lists are class A, gets
  of data or metadata class B, deletes free; what is answered 4xx or 5xx is not charged.
- Pub/Sub (`cloud.google.com/pubsub/pricing`): the bytes of publish, pull and push, at least 1,000 per request.
"""

from __future__ import annotations

import base64
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from google.cloud.firestore_v1.types import firestore
from google.pubsub_v1 import PublishRequest, PullResponse

Bill = Counter[str]
"""Billed units by name; see `UNITS`."""

UNITS = (
    "firestore_reads",
    "firestore_writes",
    "firestore_deletes",
    "storage_class_a",
    "storage_class_b",
    "storage_bytes_in",
    "storage_bytes_out",
    "pubsub_requests",
    "pubsub_bytes",
    "pubsub_pulls",
)

ENTRIES_PER_READ = 1000
"""Index entries of an aggregation that cost one read."""
LEAST_BYTES = 1000
"""Charged for a request of Pub/Sub, however small."""
STAMP_BYTES = 20
"""Charged for a message's time; its id is 16 to 20 more."""
ID_BYTES = 20


def bill_grpc(method: str, request: bytes, answers: Sequence[bytes]) -> Bill:
    """Of a call that succeeded; `method` as on the wire, `/package.Service/Method`. One that is free or that this
    service does not make is an empty bill."""
    rule = _RULES.get(method.rpartition("/")[2])
    return rule(request, answers) if rule else Bill()


def _bill_lookup(_request: bytes, answers: Sequence[bytes]) -> Bill:
    found = (firestore.BatchGetDocumentsResponse.deserialize(answer) for answer in answers)
    return Bill(firestore_reads=sum("found" in each or "missing" in each for each in found))


def _bill_query(_request: bytes, answers: Sequence[bytes]) -> Bill:
    found = (firestore.RunQueryResponse.deserialize(answer) for answer in answers)
    return Bill(firestore_reads=max(1, sum("document" in each for each in found)))


def _bill_aggregation(_request: bytes, answers: Sequence[bytes]) -> Bill:
    results = (firestore.RunAggregationQueryResponse.deserialize(answer).result for answer in answers)
    counts = (value.integer_value for result in results for value in result.aggregate_fields.values())
    return Bill(firestore_reads=max(1, sum(math.ceil(count / ENTRIES_PER_READ) for count in counts)))


def _bill_commit(request: bytes, _answers: Sequence[bytes]) -> Bill:
    writes = firestore.CommitRequest.deserialize(request).writes
    deletes = sum("delete" in write for write in writes)
    return Bill(firestore_writes=len(writes) - deletes, firestore_deletes=deletes)


def _bill_publish(request: bytes, _answers: Sequence[bytes]) -> Bill:
    messages = PublishRequest.deserialize(request).messages
    return _bill_messages((message.data, message.attributes) for message in messages)


def _bill_pull(_request: bytes, answers: Sequence[bytes]) -> Bill:
    """Pulls, most of which bring nothing, are counted by themselves."""
    received = [each.message for answer in answers for each in PullResponse.deserialize(answer).received_messages]
    size = _bill_messages((message.data, message.attributes) for message in received)["pubsub_bytes"]
    return Bill(pubsub_pulls=1, pubsub_bytes=size)


def _bill_messages(messages: Any) -> Bill:
    size = sum(
        len(data) + sum(len(name) + len(value) for name, value in attributes.items()) + STAMP_BYTES + ID_BYTES
        for data, attributes in messages
    )
    return Bill(pubsub_requests=1, pubsub_bytes=max(LEAST_BYTES, size))


_RULES: Mapping[str, Callable[[bytes, Sequence[bytes]], Bill]] = {
    "BatchGetDocuments": _bill_lookup,
    "RunQuery": _bill_query,
    "RunAggregationQuery": _bill_aggregation,
    "Commit": _bill_commit,
    "Publish": _bill_publish,
    "Pull": _bill_pull,
}


def bill_storage(method: str, path: str, status: int, sent: int, received: int) -> Bill:
    """`path` without the query; `sent` and `received` are the bodies' bytes. Further pieces of a resumable upload (PUT)
    belong to the operation that its POST began."""
    if status >= 300 and status != 304:
        return Bill()
    moved = Bill(storage_bytes_in=sent, storage_bytes_out=received)
    if method == "GET":
        is_list = path.rstrip("/").endswith("/o")
        return moved + (Bill(storage_class_a=1) if is_list else Bill(storage_class_b=1))
    return moved + Bill(storage_class_a=1) if method in ("POST", "PATCH") else moved


def bill_push(body: bytes) -> Bill:
    """A delivery, whatever it was answered."""
    message = json.loads(body)["message"]
    return _bill_messages([(base64.b64decode(message.get("data", "")), message.get("attributes", {}))])
