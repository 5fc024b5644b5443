"""What calls are billed as: messages as Google's libraries write them, against Google's rules."""

from __future__ import annotations

import base64
import json

import pytest
from google.cloud.firestore_v1.types import Document, Write, firestore
from google.cloud.firestore_v1.types.aggregation_result import AggregationResult
from google.cloud.firestore_v1.types.document import Value
from google.pubsub_v1 import PublishRequest, PubsubMessage, PullResponse, ReceivedMessage

from bench.cloud_bill import Bill, bill_grpc, bill_push, bill_storage

NAME = "projects/p/databases/(default)/documents/jobs/a"
FIRESTORE = "/google.firestore.v1.Firestore/"


def count(value: int) -> bytes:
    result = AggregationResult(aggregate_fields={"n": Value(integer_value=value)})
    return bytes(firestore.RunAggregationQueryResponse.serialize(firestore.RunAggregationQueryResponse(result=result)))


def test_a_lookup_is_a_read_of_each_document_found_or_not() -> None:
    answers = [
        firestore.BatchGetDocumentsResponse(found=Document(name=NAME)),
        firestore.BatchGetDocumentsResponse(missing=NAME),
        firestore.BatchGetDocumentsResponse(transaction=b"t"),  # says no document
    ]
    wire = [firestore.BatchGetDocumentsResponse.serialize(answer) for answer in answers]
    assert bill_grpc(FIRESTORE + "BatchGetDocuments", b"", wire) == Bill(firestore_reads=2)


@pytest.mark.parametrize(("documents", "reads"), [(0, 1), (1, 1), (3, 3)])
def test_a_query_is_a_read_of_each_document_and_one_at_least(documents: int, reads: int) -> None:
    answers = [firestore.RunQueryResponse(document=Document(name=NAME)) for _ in range(documents)]
    answers.append(firestore.RunQueryResponse(skipped_results=0))
    wire = [firestore.RunQueryResponse.serialize(answer) for answer in answers]
    assert bill_grpc(FIRESTORE + "RunQuery", b"", wire) == Bill(firestore_reads=reads)


@pytest.mark.parametrize(("entries", "reads"), [(0, 1), (1, 1), (1000, 1), (1001, 2)])
def test_a_count_is_a_read_per_thousand_entries(entries: int, reads: int) -> None:
    assert bill_grpc(FIRESTORE + "RunAggregationQuery", b"", [count(entries)]) == Bill(firestore_reads=reads)


def test_a_commit_is_its_writes_and_deletes() -> None:
    writes = [Write(update=Document(name=NAME)), Write(update=Document(name=NAME)), Write(delete=NAME)]
    request = firestore.CommitRequest.serialize(firestore.CommitRequest(writes=writes))
    assert bill_grpc(FIRESTORE + "Commit", request, [b""]) == Bill(firestore_writes=2, firestore_deletes=1)


def test_what_is_free_is_an_empty_bill() -> None:
    assert bill_grpc("/google.pubsub.v1.Subscriber/Acknowledge", b"", [b""]) == Bill()


@pytest.mark.parametrize(
    ("method", "path", "status", "bill"),
    [
        ("GET", "/storage/v1/b/bucket/o/a%2Fb.jpg", 200, {"storage_class_b": 1}),
        ("GET", "/download/storage/v1/b/bucket/o/a.jpg", 206, {"storage_class_b": 1}),
        ("GET", "/storage/v1/b/bucket/o", 200, {"storage_class_a": 1}),
        ("POST", "/upload/storage/v1/b/bucket/o", 200, {"storage_class_a": 1}),
        ("PUT", "/upload/storage/v1/b/bucket/o", 200, {}),
        ("DELETE", "/storage/v1/b/bucket/o/a.jpg", 204, {}),
        ("GET", "/storage/v1/b/bucket/o/a.jpg", 404, None),
        ("POST", "/upload/storage/v1/b/bucket/o", 412, None),
    ],
)
def test_storage_is_billed_by_class(method: str, path: str, status: int, bill: dict[str, int] | None) -> None:
    moved = {} if bill is None else {"storage_bytes_in": 5, "storage_bytes_out": 7, **bill}
    assert bill_storage(method, path, status, 5, 7) == Bill(moved)


def test_a_message_is_its_bytes_and_a_kilobyte_at_least() -> None:
    small = PublishRequest(topic="t", messages=[PubsubMessage(data=b"x")])
    assert bill_grpc("/P/Publish", PublishRequest.serialize(small), [b""])["pubsub_bytes"] == 1000
    message = PubsubMessage(data=b"x" * 3000, attributes={"key": "value"})
    large = PublishRequest(topic="t", messages=[message, message])
    bill = bill_grpc("/P/Publish", PublishRequest.serialize(large), [b""])
    assert bill == Bill(pubsub_requests=1, pubsub_bytes=2 * (3000 + 8 + 40))


def test_a_pull_that_brings_nothing_costs_a_kilobyte() -> None:
    empty = PullResponse.serialize(PullResponse())
    assert bill_grpc("/S/Pull", b"", [empty]) == Bill(pubsub_pulls=1, pubsub_bytes=1000)
    full = PullResponse(received_messages=[ReceivedMessage(message=PubsubMessage(data=b"x" * 2000))])
    assert bill_grpc("/S/Pull", b"", [PullResponse.serialize(full)])["pubsub_bytes"] == 2040


def test_a_push_is_billed_by_its_data_not_by_its_base64() -> None:
    body = json.dumps({"message": {"data": base64.b64encode(b"x" * 3000).decode(), "messageId": "1"}}).encode()
    assert bill_push(body) == Bill(pubsub_requests=1, pubsub_bytes=3040)
